// Package vaulttest runs real Vault (or OpenBao) servers for tests: one node, or
// a cluster of three, each a process of its own on raft storage, listening on
// loopback addresses.
//
// It is test code. The plugin binary does not link it.
package vaulttest
