package influxctl

import (
	"strings"
	"testing"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

func BenchmarkDecodeCreate(b *testing.B) {
	for name, stdout := range map[string]string{"table": table + secret + "\n", "JSON": `{` + entryJSON + `,"token":"` + secret + `"}`} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			text := []byte(stdout)
			for b.Loop() {
				if token, err := decodeCreate(text, []byte(warnings)); err != nil || token.ID != id {
					b.Fatal(token.ID, err)
				}
			}
		})
	}
}

func BenchmarkDecodeList(b *testing.B) {
	const n = 10_000
	text := "[" + strings.TrimSuffix(strings.Repeat("{"+entryJSON+"},\n", n), ",\n") + "]"
	b.ReportAllocs()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		entries := 0
		err := decodeList(strings.NewReader(text), func(issuer.Info) error { entries++; return nil })
		if err != nil || entries != n {
			b.Fatal(entries, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/entry")
}
