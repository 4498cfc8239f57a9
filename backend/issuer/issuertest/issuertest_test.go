package issuertest

import (
	"context"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

func TestTheFakeConforms(t *testing.T) {
	Run(t, func(*testing.T) Subject {
		fake, root := NewFake(time.Now)
		return Subject{
			Issuer:  fake.Open(issuer.Cluster{Root: root.Secret}),
			Refused: fake.Open(issuer.Cluster{Root: issuer.NewSecret("M.V1.wrong")}),
			Secrets: []issuer.Secret{root.Secret},
			Usable:  func(_ context.Context, s issuer.Secret) (bool, error) { return fake.Alive(s), nil },
		}
	})
}
