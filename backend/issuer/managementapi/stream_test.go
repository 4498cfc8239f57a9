package managementapi

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// An HTTP/2 server creates the token and then ends the stream with PROTOCOL_ERROR,
// for example a proxy that cannot pass on the answer of the cluster. net/http takes
// that for a request that was not processed and can be sent again.
func TestTransport_IssueIsNotSentAgainAfterAProtocolError(t *testing.T) {
	var created atomic.Int32
	s := newUnstarted(t, nil)
	s.server.TLS = &tls.Config{NextProtos: []string{"h2"}}
	s.server.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){
		"h2": func(_ *http.Server, conn *tls.Conn, _ http.Handler) { resetFirst(conn, &created) },
	}
	s.server.StartTLS()
	target := s.cluster(issuer.Clustered)
	target.CACert = serverCA(s.server)
	if _, err := s.issue(s.Open(target), "d"); kindOf(err) != "doubt" {
		t.Errorf("%q: %v", kindOf(err), err)
	}
	if n := created.Load(); n != 1 {
		t.Errorf("%d tokens were created", n)
	}
}

// resetFirst serves HTTP/2 on conn. It counts complete requests, resets the first and
// answers the others.
func resetFirst(conn net.Conn, created *atomic.Int32) {
	io.ReadFull(conn, make([]byte, len(http2.ClientPreface)))
	framer := http2.NewFramer(conn, conn)
	framer.WriteSettings()
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				framer.WriteSettingsAck()
			}
		case *http2.DataFrame:
			if !f.StreamEnded() {
				continue
			}
			if created.Add(1) == 1 {
				framer.WriteRSTStream(f.StreamID, http2.ErrCodeProtocol)
				continue
			}
			var header bytes.Buffer
			hpack.NewEncoder(&header).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
			framer.WriteHeaders(http2.HeadersFrameParam{StreamID: f.StreamID, BlockFragment: header.Bytes(), EndHeaders: true})
			framer.WriteData(f.StreamID, true, fmt.Appendf(nil, `{"id": %q, "accessToken": "apiv1_x"}`, someID))
		}
	}
}
