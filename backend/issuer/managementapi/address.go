package managementapi

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/httpapi"
)

// dedicatedOrigin is the origin of the API for all clusters of Cloud Dedicated,
// see docs/vendor-facts.md, "management-api-paths".
const dedicatedOrigin = "https://console.influxdata.com"

// originOf returns the origin of the API of a cluster.
func originOf(c issuer.Cluster) (string, error) {
	switch {
	case c.APIURL != "":
		return httpapi.ParseOrigin(c.APIURL)
	case c.Product == issuer.Dedicated:
		return dedicatedOrigin, nil
	case c.Host == "":
		return "", errors.New("neither host nor api_url is set in config")
	}
	return httpapi.Origin(c)
}

// collectionsOf returns the paths at which a cluster may serve its database
// tokens, the documented one first.
//
// For Clustered the documented path is the short one. Clients of InfluxData have
// used the path of Cloud Dedicated with it, so that one is tried too if the IDs
// are configured and the cluster does not serve the documented path. See
// docs/vendor-facts.md, "management-api-paths".
func collectionsOf(c issuer.Cluster) ([]string, error) {
	var withIDs []string
	if c.AccountID != "" && c.ClusterID != "" {
		withIDs = []string{"/api/v0/accounts/" + url.PathEscape(c.AccountID) + "/clusters/" + url.PathEscape(c.ClusterID) + "/tokens"}
	}
	switch c.Product {
	case issuer.Clustered:
		return append([]string{"/api/v0/tokens"}, withIDs...), nil
	case issuer.Dedicated:
		if withIDs == nil {
			return nil, errors.New("account_id and cluster_id are not set in config")
		}
		return withIDs, nil
	}
	return nil, fmt.Errorf("the product %q has no Management API", c.Product)
}
