package vaulttest

import "testing"

func TestLeaks_FindsPartOfASecret(t *testing.T) {
	secret := "M.V1.abcdefghijklmnopqrstuvwxyz0123456789"
	for _, c := range []struct {
		log  string
		want int
	}{
		{"issued " + secret[:9], 0},
		{"issued " + secret, 1},
		{"issued " + secret[8:len(secret)-8], 1},
	} {
		if got := Leaks(c.log, []string{secret}); len(got) != c.want {
			t.Errorf("leaks in %q: %q", c.log, got)
		}
	}
}
