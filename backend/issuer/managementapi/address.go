package managementapi

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// dedicatedOrigin is where the API of every Cloud Dedicated cluster is.
const dedicatedOrigin = "https://console.influxdata.com"

// originOf says where the API of a cluster is, without a path.
func originOf(c issuer.Cluster) (string, error) {
	switch {
	case c.APIURL != "":
		return parseOrigin(c.APIURL)
	case c.Product == issuer.Dedicated:
		return dedicatedOrigin, nil
	case c.Host == "":
		return "", errors.New("neither host nor api_url is set in config")
	}
	host := c.Host
	switch {
	case c.Port != "":
		host = net.JoinHostPort(c.Host, c.Port)
	case strings.Contains(c.Host, ":"):
		host = "[" + c.Host + "]"
	}
	scheme := "https"
	if c.DisableTLS {
		scheme = "http"
	}
	return parseOrigin(scheme + "://" + host)
}

// parseOrigin proves that text is an origin and nothing more. Its errors do not
// quote text, in which somebody may have put a password.
func parseOrigin(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" {
		return "", errors.New("api_url or host in config is no origin, such as https://cluster.example.com")
	}
	origin := (&url.URL{Scheme: u.Scheme, Host: u.Host}).String()
	if strings.TrimSuffix(text, "/") != origin {
		return "", errors.New("api_url or host in config says more than an origin, such as https://cluster.example.com")
	}
	return origin, nil
}

// collectionsOf returns the paths under which a cluster may serve its database
// tokens, the documented one first.
//
// For Clustered that is the short path; yet InfluxData's own clients have been
// seen to use the path of Cloud Dedicated with it. Where the ids are configured
// that path is tried once the cluster has said that it does not serve the
// documented one.
func collectionsOf(c issuer.Cluster) ([]string, error) {
	var long []string
	if c.AccountID != "" && c.ClusterID != "" {
		long = []string{"/api/v0/accounts/" + url.PathEscape(c.AccountID) + "/clusters/" + url.PathEscape(c.ClusterID) + "/tokens"}
	}
	switch c.Product {
	case issuer.Clustered:
		return append([]string{"/api/v0/tokens"}, long...), nil
	case issuer.Dedicated:
		if long == nil {
			return nil, errors.New("account_id and cluster_id are not set in config")
		}
		return long, nil
	}
	return nil, fmt.Errorf("%q is not a product with a Management API", c.Product)
}
