package main

import (
	"fmt"
	"image/color"

	"gonum.org/v1/plot"
)

// latency shows what a read of a management token adds to the time of influxctl.
func latency(all results) ([]*plot.Plot, error) {
	p := newPlot("Added to one run of influxctl (ms)", "Vault: a UUID\nunder a lease", "two writes and\na read of storage", "the engine and the\nstart of the process", "together")
	var parts []float64
	for _, what := range []string{
		"of it: a leased UUID from Vault", "of it: two writes and a read of storage",
		"of it: the engine, its RPCs, profile and process", "added to one run of influxctl, p50, 1 client",
	} {
		one, err := all.find(what, "")
		if err != nil {
			return nil, err
		}
		parts = append(parts, one.Engine)
	}
	return []*plot.Plot{p}, addBars(p, 40, group{"", parts, orange, "%.1f"})
}

// rates shows calls per second by the number of clients.
func rates(all results) ([]*plot.Plot, error) {
	type series struct {
		name, baseline string
		other          bool // the value of the baseline
		color          color.Color
	}
	var panels []*plot.Plot
	for _, panel := range []struct {
		title, what string
		series      []series
	}{
		{"Management tokens per second", "management tokens", []series{
			{"engine", "in a loop", false, orange}, {"influxctl in a loop", "in a loop", true, grey},
		}},
		{"InfluxDB 3 tokens per second", "InfluxDB 3 tokens", []series{
			{"engine", "stores twice", false, orange}, {"UUID, stored twice", "stores twice", true, grey}, {"UUID", "leased UUID", true, light},
		}},
		{"Static role reads per second", "reads of a static role", []series{
			{"engine", "UUID without a lease", false, orange}, {"as many fields", "as many fields without a lease", true, grey},
			{"UUID", "UUID without a lease", true, light},
		}},
	} {
		p := newPlot(panel.title, "1", "4", "32")
		p.Title.TextStyle.Font.Size = 10
		p.X.Label.Text = "clients"
		var groups []group
		for _, s := range panel.series {
			g := group{name: s.name, color: s.color, format: "%.0f"}
			for _, clients := range []int{1, 4, 32} {
				one, err := all.find(fmt.Sprintf("%s, %d clients", panel.what, clients), s.baseline)
				if err != nil {
					return nil, err
				}
				value := one.Engine
				if s.other {
					value = one.Other
				}
				g.values = append(g.values, value)
			}
			groups = append(groups, g)
		}
		if err := addBars(p, 14, groups...); err != nil {
			return nil, err
		}
		panels = append(panels, p)
	}
	return panels, nil
}

// revocation shows how long it takes to end many leases, and how many processes.
func revocation(all results) ([]*plot.Plot, error) {
	ways := []string{"1000 leases, lease revoke -prefix", "1000 leases, secrets disable", "10000 leases, lease revoke -prefix"}
	var engine, floor, processes []float64
	for _, way := range ways {
		done, err := all.find(way+", 200 ms a run: until Vault and the ledger are done", "")
		if err != nil {
			return nil, err
		}
		runs, err := all.find(way+", 200 ms a run: processes", "one process per lease")
		if err != nil {
			return nil, err
		}
		engine, floor, processes = append(engine, done.Engine), append(floor, done.Other), append(processes, runs.Engine)
	}
	names := []string{"1,000\nrevoked", "1,000\ndisabled", "10,000\nrevoked"}
	time, count := newPlot("Until all leases have ended (s)", names...), newPlot("Processes of influxctl", names...)
	if err := addBars(time, 26, group{"management tokens", engine, orange, "%.0f"}, group{"UUIDs, which Vault only forgets", floor, grey, "%.0f"}); err != nil {
		return nil, err
	}
	return []*plot.Plot{time, count}, addBars(count, 40, group{"", processes, orange, "%.0f"})
}

// ledger shows what a start costs by the number of records.
func ledger(all results) ([]*plot.Plot, error) {
	var known, memory []float64
	for _, n := range []int{1000, 10_000, 100_000} {
		loaded, err := all.find(fmt.Sprintf("a ledger of %d records: until all records are known", n), "")
		if err != nil {
			return nil, err
		}
		resident, err := all.find(fmt.Sprintf("a ledger of %d records: memory then, resident", n), "")
		if err != nil {
			return nil, err
		}
		known, memory = append(known, loaded.Engine), append(memory, resident.Engine)
	}
	names := []string{"1,000", "10,000", "100,000"}
	start, size := newPlot("Until all tokens are known (s)", names...), newPlot("Memory of the plugin (MB)", names...)
	for _, p := range []*plot.Plot{start, size} {
		p.X.Label.Text = "tokens in the ledger"
	}
	if err := addBars(start, 40, group{"", known, orange, "%.1f"}); err != nil {
		return nil, err
	}
	return []*plot.Plot{start, size}, addBars(size, 40, group{"", memory, orange, "%.0f"})
}
