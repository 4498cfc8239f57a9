package influxctl

import "testing"

func TestVersion_ParseAndCompare(t *testing.T) {
	for text, want := range map[string]string{
		"influxctl v2.12.0 linux/amd64 go1.24.1": "2.12.0",
		"version: 2.9.7-dev\n":                   "2.9.7",
		"2.10":                                   "", "": "", "0.0.0": "", "devel": "",
	} {
		v, ok := parseVersion(text)
		if v.String() != want || ok != (want != "") {
			t.Errorf("%q: %v, %v", text, v, ok)
		}
	}
	for _, c := range []struct {
		v, w version
		want bool
	}{
		{version{2, 9, 6}, minVersion, true}, {minVersion, minVersion, false}, {version{2, 10, 0}, minVersion, false},
		{version{1, 99, 99}, minVersion, true}, {version{3, 0, 0}, minVersion, false}, {version{}, minVersion, false},
	} {
		if c.v.before(c.w) != c.want {
			t.Errorf("%v before %v: not %v", c.v, c.w, c.want)
		}
	}
}

func FuzzParseVersion(f *testing.F) {
	f.Add("influxctl v2.12.0")
	f.Fuzz(func(t *testing.T, text string) {
		v, ok := parseVersion(text)
		if again, againOK := parseVersion(v.String()); again != v || againOK != ok {
			t.Errorf("%v, %v; read again %v, %v", v, ok, again, againOK)
		}
	})
}
