// Package influxdb3server simulates the HTTP API of InfluxDB 3 Core, Enterprise
// and Cloud, as far as it concerns tokens.
//
// It reproduces what is known of the products from their source code, their
// documentation and third-party probes: status codes, the exact text of errors,
// headers, expired tokens that stay in the catalog, names that stay taken, nodes
// that learn of a change later than the node that made it. What is not known is
// marked "unknown" in the comments.
//
// A request that the secrets engine must never send is recorded as a violation
// and answered by 500, see [Cluster.Violations].
package influxdb3server
