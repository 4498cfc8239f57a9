package issuertest

import "maps"

// Backup returns a function that restores the tokens of this type as they are
// now: later ones are gone, and those that were revoked later are valid again.
func (f *Fake) Backup() (restore func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	order := copyTokens(f.order)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.order = copyTokens(order)
		clear(f.tokens)
		maps.Copy(f.tokens, listable(f.order, f.product.named))
	}
}

func copyTokens(tokens []*fakeToken) []*fakeToken {
	copies := make([]*fakeToken, len(tokens))
	for i, t := range tokens {
		c := *t
		copies[i] = &c
	}
	return copies
}

// listable returns the tokens that the cluster still has, by ID.
func listable(tokens []*fakeToken, named bool) map[string]*fakeToken {
	have := map[string]*fakeToken{}
	for _, t := range tokens {
		if !named || t.RevokedAt.IsZero() {
			have[t.ID] = t
		}
	}
	return have
}
