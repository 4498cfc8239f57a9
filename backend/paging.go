package backend

import (
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
)

// pageFields are the fields of every list: OpenBao sends them, and Vault passes
// query parameters on.
var pageFields = map[string]*framework.FieldSchema{
	"after": {Type: framework.TypeString, Query: true, Description: "List only keys after this one, which need not exist. Default: from the first."},
	"limit": {Type: framework.TypeInt, Query: true, Description: "Number of keys to list. Default: all, as for any number below 1."},
}

// pageOf returns the keys that a list request asks for, sorted.
func pageOf(keys []string, d *framework.FieldData) []string {
	keys = slices.Sorted(slices.Values(keys))
	if after := d.Get("after").(string); after != "" {
		first, found := slices.BinarySearch(keys, after)
		if found {
			first++
		}
		keys = keys[first:]
	}
	if limit := d.Get("limit").(int); limit > 0 && limit < len(keys) {
		keys = keys[:limit]
	}
	return keys
}
