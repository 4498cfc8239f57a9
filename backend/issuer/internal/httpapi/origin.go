package httpapi

import (
	"errors"
	"net"
	"net/url"
	"strings"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// Origin returns the origin of a cluster from its host, port and DisableTLS.
func Origin(c issuer.Cluster) (string, error) {
	if c.Host == "" {
		return "", errors.New("host is not set in config")
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
	return ParseOrigin(scheme + "://" + host)
}

// ParseOrigin returns the origin in text, or an error if text is not an origin
// and nothing more. The error does not quote text, which may hold a password.
func ParseOrigin(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" {
		return "", errors.New("the address in config is not an origin such as https://cluster.example.com: check api_url, host and port")
	}
	origin := (&url.URL{Scheme: u.Scheme, Host: u.Host}).String()
	if strings.TrimSuffix(text, "/") != origin {
		return "", errors.New("the address in config has more than an origin such as https://cluster.example.com: remove path, user and query from api_url or host")
	}
	return origin, nil
}
