package backend

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

// metricsPrefix begins the name of every metric.
const metricsPrefix = "influxdb_secrets_"

// The operations that are counted. The label of a counter has these values.
const (
	opIssue        = "issue"         // a token was requested from the cluster, for whatever purpose
	opRenew        = "renew"         // a lease was to be renewed
	opRevoke       = "revoke"        // a token was to be revoked; every attempt counts
	opDefer        = "defer"         // a lease was released although its token is not revoked yet
	opOrphanRevoke = "orphan_revoke" // a token outlived its lease
	opRotateRoot   = "rotate_root"   // the root credential was to be replaced
	opRotateStatic = "rotate_static" // the token of a static role was to be replaced
)

var operations = []string{opIssue, opRenew, opRevoke, opDefer, opOrphanRevoke, opRotateRoot, opRotateStatic}

// The results of an operation.
const (
	resultSuccess = "success"
	resultRefused = "refused" // by a limit of the role, or by the cluster because of the request
	resultFailed  = "failed"
)

var results = []string{resultSuccess, resultRefused, resultFailed}

// The calls to the cluster whose duration is measured.
const (
	callIssue   = "issue"
	callRevoke  = "revoke"
	callList    = "list"
	callInspect = "inspect" // asks the server what it is
)

var calls = []string{callIssue, callRevoke, callList, callInspect}

// durationBuckets are the upper bounds of the buckets of a histogram, in seconds.
// A request to a cluster takes at most issueTime.
var durationBuckets = []float64{0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 90}

// metrics counts what the engine has done since the process started. It is safe
// for concurrent use.
type metrics struct {
	mu        sync.Mutex // guards the following
	counts    map[outcome]uint64
	durations map[string]*histogram // by call
}

// An outcome is an operation and its result.
type outcome struct{ operation, result string }

// A histogram counts durations by bucket.
type histogram struct {
	buckets []uint64 // as durationBuckets; not cumulative
	count   uint64
	sum     float64 // in seconds
}

// newMetrics returns metrics in which every counter exists with the value 0. An
// alert on an increase would miss the first failure otherwise.
func newMetrics() *metrics {
	m := &metrics{counts: map[outcome]uint64{}, durations: map[string]*histogram{}}
	for _, operation := range operations {
		for _, result := range results {
			m.counts[outcome{operation, result}] = 0
		}
	}
	for _, call := range calls {
		m.durations[call] = &histogram{buckets: make([]uint64, len(durationBuckets))}
	}
	return m
}

// count counts an operation that ended with err. It counts nothing on a node that
// may not write: another node does the operation.
func (m *metrics) count(operation string, err error) {
	if errors.Is(err, logical.ErrReadOnly) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts[outcome{operation, resultOf(err)}]++
}

// observe measures a call to the cluster.
func (m *metrics) observe(call string, took time.Duration) {
	seconds := max(took, 0).Seconds()
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.durations[call]
	h.count++
	h.sum += seconds
	if i, _ := slices.BinarySearch(durationBuckets, seconds); i < len(durationBuckets) {
		h.buckets[i]++
	}
}

// A refusal is an error that says that an operation is not allowed, so that it was
// not tried.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

// resultOf returns the result of an operation that ended with err. A root
// credential that is not accepted, and a cluster that is out of reach, are
// failures, although the cluster has changed nothing.
func resultOf(err error) string {
	var refused refusal
	switch {
	case err == nil:
		return resultSuccess
	case errors.Is(err, issuer.ErrUnreachable), errors.Is(err, issuer.ErrUnauthorized):
		return resultFailed
	case errors.As(err, &refused),
		errors.Is(err, issuer.ErrRefused),
		errors.Is(err, ledger.ErrMaxActive), errors.Is(err, ledger.ErrUnsettled),
		errors.Is(err, errConfigChanged), errors.Is(err, errIsRoot), errors.Is(err, errIsNextRoot):
		return resultRefused
	}
	return resultFailed
}

// A metricSample is one value of a metric.
type metricSample = dto.Metric

// A metricsPage is a text in the format of Prometheus that is being composed.
type metricsPage struct {
	families []*dto.MetricFamily
}

// add adds a metric with its samples. A metric without samples is left out.
func (p *metricsPage) add(kind dto.MetricType, name, help string, samples ...*metricSample) {
	if len(samples) == 0 {
		return
	}
	name = metricsPrefix + name
	p.families = append(p.families, &dto.MetricFamily{Name: &name, Help: &help, Type: &kind, Metric: samples})
}

// gauge adds a metric that may go up and down.
func (p *metricsPage) gauge(name, help string, samples ...*metricSample) {
	p.add(dto.MetricType_GAUGE, name, help, samples...)
}

// moment adds a time, unless it is zero.
func (p *metricsPage) moment(name, help string, t time.Time) {
	if !t.IsZero() {
		p.gauge(name, help, sample(float64(t.Unix())))
	}
}

// text returns the page. The metrics are sorted by name.
func (p *metricsPage) text() ([]byte, error) {
	slices.SortFunc(p.families, func(a, b *dto.MetricFamily) int { return cmp.Compare(a.GetName(), b.GetName()) })
	var text bytes.Buffer
	for _, family := range p.families {
		if _, err := expfmt.MetricFamilyToText(&text, family); err != nil {
			return nil, fmt.Errorf("write metric %s: %w", family.GetName(), err)
		}
	}
	return text.Bytes(), nil
}

// sample returns the value of a gauge. pairs are the names and values of its
// labels.
func sample(value float64, pairs ...string) *metricSample {
	return &metricSample{Label: labels(pairs), Gauge: &dto.Gauge{Value: &value}}
}

func labels(pairs []string) (all []*dto.LabelPair) {
	for pair := range slices.Chunk(pairs, 2) {
		all = append(all, &dto.LabelPair{Name: &pair[0], Value: &pair[1]})
	}
	return all
}

// truth is 1 for true.
func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// describe adds the counters and histograms to a page.
func (m *metrics) describe(p *metricsPage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var counters, histograms []*metricSample
	for _, operation := range operations {
		for _, result := range results {
			n := float64(m.counts[outcome{operation, result}])
			counters = append(counters, &metricSample{
				Label:   labels([]string{"operation", operation, "result", result}),
				Counter: &dto.Counter{Value: &n},
			})
		}
	}
	for _, call := range calls {
		histograms = append(histograms, &metricSample{Label: labels([]string{"operation", call}), Histogram: m.durations[call].describe()})
	}
	p.add(dto.MetricType_COUNTER, "operations_total", "Operations of the engine since the plugin started, by result.", counters...)
	p.add(dto.MetricType_HISTOGRAM, "request_duration_seconds", "Duration of requests to the cluster, also of those that failed.", histograms...)
}

func (h *histogram) describe() *dto.Histogram {
	count, sum, below := h.count, h.sum, uint64(0)
	described := &dto.Histogram{SampleCount: &count, SampleSum: &sum}
	for i, n := range h.buckets {
		below += n
		cumulative, bound := below, durationBuckets[i]
		described.Bucket = append(described.Bucket, &dto.Bucket{CumulativeCount: &cumulative, UpperBound: &bound})
	}
	return described
}
