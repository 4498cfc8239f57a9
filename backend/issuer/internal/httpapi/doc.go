// Package httpapi sends single requests to an HTTP API of InfluxDB with a root
// credential, for the drivers that use one. It answers the questions on which
// the promises of package issuer depend: whether the cluster can have received a
// request, and what an answer that is not a success means. It never follows a
// redirect, never repeats a request that creates a token, reads no more of an
// answer than is allowed, and puts no secret into an error.
package httpapi
