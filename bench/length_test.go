package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/proxy"
	"google.golang.org/protobuf/proto"
)

// builtProxy returns the binary that SEAL_PROXY_BIN names, or builds one.
func builtProxy(t *testing.T) string {
	t.Helper()
	if binary := os.Getenv("SEAL_PROXY_BIN"); binary != "" {
		return binary
	}
	binary := filepath.Join(t.TempDir(), "temporal-seal")
	cmd := exec.Command("go", "build", "-o", binary, "./cmd/proxy")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the proxy: %v: %s", err, out)
	}
	return binary
}

// maxGrowth is how long the mixed history may become by being sealed by reference.
const maxGrowth = 1.25

// TestSealedLength seals the mixed history by reference, with a data key that is past its first envelopes, and compares the lengths. Of 256
// envelopes, one is an anchor, which carries its wrapped key.
func TestSealedLength(t *testing.T) {
	through := startReferring(t)
	warm := func() *commonpb.Payload {
		p := payload(newRand(), 100)
		if err := through.sealPayloads(t.Context(), "sealed", []*commonpb.Payload{p}); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for end := time.Now().Add(time.Minute); !byReference(warm()); {
		if time.Now().After(end) {
			t.Fatal("nothing is sealed by reference")
		}
		time.Sleep(100 * time.Millisecond)
	}
	clear := mixedHistory()
	sealed := proto.CloneOf(clear)
	all, err := slotsOf(sealed)
	if err != nil {
		t.Fatal(err)
	}
	for some := range slices.Chunk(all.payloads, 20) {
		if err := through.sealPayloads(t.Context(), "sealed", some); err != nil {
			t.Fatal(err)
		}
	}
	if err := through.sealFailures(t.Context(), all.failures); err != nil {
		t.Fatal(err)
	}
	envelopes, anchors := 0, 0
	err = proxy.VisitPayloads(t.Context(), sealed, proxy.VisitPayloadsOptions{
		Visitor: func(_ *proxy.VisitPayloadsContext, p []*commonpb.Payload) ([]*commonpb.Payload, error) {
			for _, one := range p {
				if envelopes++; !byReference(one) {
					anchors++
				}
			}
			return p, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	growth := float64(proto.Size(sealed)) / float64(proto.Size(clear))
	t.Logf("%d bytes in clear, %d sealed by reference: %.3f times; %d anchors of %d envelopes", proto.Size(clear), proto.Size(sealed), growth, anchors, envelopes)
	if growth > maxGrowth {
		t.Errorf("sealing by reference makes the history %.3f times as long, at most %.2f is in order", growth, maxGrowth)
	}
	if least, most := envelopes/256/2, envelopes/256+2; envelopes < 800 || anchors < least || anchors > most {
		t.Errorf("%d of %d envelopes are anchors, %d to %d are in order", anchors, envelopes, least, most)
	}
}

// byReference reports whether a payload is an envelope that names a row of the key store: bit 4 of its second byte.
func byReference(p *commonpb.Payload) bool {
	return strings.HasSuffix(string(p.Metadata["encoding"]), "/sealed.v1") && len(p.Data) > 1 && p.Data[1]&(1<<4) != 0
}

// startReferring starts a proxy that seals by reference, with a frontend behind it.
func startReferring(t *testing.T) sealer {
	t.Helper()
	binary, dir := builtProxy(t), t.TempDir()
	store, id, err := newStore(t.Context(), binary, filepath.Join(dir, "keys.db"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := newKey(t.Context(), binary, filepath.Join(dir, "local.key"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := newFrontend()
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	p, err := startProduct(context.Background(), productOptions{binary: binary, upstream: l.Addr().String(), dir: dir, name: "referring",
		rules: `request contains {"action": "seal"}`, key: key, store: store, storeID: id})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	conn, err := dial(p.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	front, err := newControl(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { front.cc.Close() })
	return sealer{proxy: conn, frontend: front}
}
