package rootcredential

import (
	"strings"
	"testing"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

func TestAdvice_NamesTheParametersOfTheProduct(t *testing.T) {
	for _, c := range []struct {
		cluster issuer.Cluster
		want    string
	}{
		{issuer.Cluster{Product: issuer.Dedicated, Root: issuer.NewSecret("M.V1.x")}, "mgmt_token, account_id and cluster_id"},
		{issuer.Cluster{Product: issuer.Clustered, Root: issuer.NewSecret("M.V1.x")}, "mgmt_token, host"},
		{issuer.Cluster{Product: issuer.Clustered, Root: issuer.NewSecret("apiv1_s3cret")}, "influxctl management create"},
	} {
		for _, text := range []string{NotAccepted(c.cluster), NotAllowed(c.cluster)} {
			if !strings.Contains(text, c.want) || strings.Contains(text, "s3cret") {
				t.Errorf("%s: %s", c.cluster.Product, text)
			}
		}
	}
}
