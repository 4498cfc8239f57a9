package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// A result is the part of a line of the benchmark that the plots use.
type result struct {
	What     string  `json:"what"`
	Engine   float64 `json:"engine"`
	Baseline string  `json:"baseline"`
	Other    float64 `json:"baseline_value"`
}

// results are the lines of one run of the benchmark.
type results []result

// readResults reads the output of the benchmark, and skips the lines that are no
// results.
func readResults(from io.Reader) (all results, err error) {
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		var one result
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			return nil, fmt.Errorf("result %d: %w", len(all)+1, err)
		}
		if one.What != "" {
			all = append(all, one)
		}
	}
	return all, lines.Err()
}

// find returns the result with this name, and with a baseline that ends with the
// given text.
func (all results) find(what, baseline string) (result, error) {
	for _, one := range all {
		if one.What == what && strings.HasSuffix(one.Baseline, baseline) {
			return one, nil
		}
	}
	return result{}, fmt.Errorf("the benchmark did not measure %q, compared with %q", what, baseline)
}
