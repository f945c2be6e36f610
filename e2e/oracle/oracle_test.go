package main

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

func TestParseThenEncodeIsTheIdentity(t *testing.T) {
	d := new(workflowservice.RespondWorkflowTaskCompletedRequest).ProtoReflect().Descriptor()
	files, err := filepath.Glob(filepath.Join(harness.Root(), "testdata/rpc/RespondWorkflowTaskCompleted.*.request.binpb"))
	if err != nil || len(files) == 0 {
		t.Fatalf("recorded RPCs: %v, %v", files, err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		nodes, err := parse(b, d)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(encode(nil, nodes), b) {
			t.Errorf("%s: other bytes come out", file)
		}
	}
}

// Both builds seal with nonces and keys of their own, so one message has two forms. They have to be spoiled alike.
func TestSpoilDependsOnTheShapeAlone(t *testing.T) {
	message := func(data string) []*node {
		f := &failurepb.Failure{Message: "m", EncodedAttributes: &commonpb.Payload{
			Metadata: map[string][]byte{"encoding": []byte("binary/sealed.v1")}, Data: []byte(data)}}
		nodes, err := parse(marshal(f), f.ProtoReflect().Descriptor())
		if err != nil {
			t.Fatal(err)
		}
		return nodes
	}
	changed := 0
	for seed := range uint64(500) {
		a, cutA := spoil(rand.New(rand.NewPCG(seed, 1)), message("aaaaaaaa"))
		b, cutB := spoil(rand.New(rand.NewPCG(seed, 1)), message("bbbbbbbb"))
		if cutA != cutB || !bytes.Equal(bytes.ReplaceAll(encode(nil, a), []byte("aaaaaaaa"), []byte("bbbbbbbb")), encode(nil, b)) {
			t.Fatalf("seed %d: two messages of one shape are spoiled in two ways", seed)
		}
		if !bytes.Equal(encode(nil, a), encode(nil, message("aaaaaaaa"))) {
			changed++
		}
	}
	if changed < 300 {
		t.Errorf("%d of 500 messages were changed", changed)
	}
}

func TestCompareCountsWhatIsNotAccepted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "accepted.yaml")
	text := "renames: [{aspect: metrics, from: old_total, to: new_total, reason: r}]\n" +
		"differences: [{aspect: status, old: '^was', new: '^is', reason: r}]\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, one := range []struct {
		aspect, old, new string
		differences      int
	}{
		{"metrics", "old_total +1", "new_total +1", 0},
		{"metrics", "old_total +1", "new_total +2", 1},
		{"status", "was a\nsame", "is b\nsame", 0},
		{"status", "was a\nsame", "is b\nother", 1},
		{"answer", "was a", "is b", 1},
		{"answer", "a\nb", "b\na", 1},
		{"size", "Start 100 bytes 0 sealed\n", "Start 130 bytes 0 sealed\n", 0},
		{"size", "Start 100 bytes 0 sealed\n", "Start 300 bytes 0 sealed\n", 1},
		{"size", "Start 100 bytes 9 sealed\n", "Start 300 bytes 9 sealed\n", 0},
		{"size", "Start 100 bytes 9 sealed\n", "Start 400 bytes 9 sealed\n", 1},
		{"size", "Start 100 bytes 1 sealed\n", "Start 100 bytes 2 sealed\n", 1},
	} {
		f, err := readAccepted(path)
		if err != nil {
			t.Fatal(err)
		}
		c := &comparison{accepted: f}
		if c.compare("case", one.aspect, one.old, one.new); c.differences != one.differences {
			t.Errorf("%s: %q and %q: %d differences, expected %d", one.aspect, one.old, one.new, c.differences, one.differences)
		}
	}
}

func TestAcceptedNeedsReasons(t *testing.T) {
	path := filepath.Join(t.TempDir(), "accepted.yaml")
	if err := os.WriteFile(path, []byte("differences: [{aspect: status, old: x}]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := readAccepted(path); err == nil || !strings.Contains(err.Error(), "reason") {
		t.Errorf("a difference without a reason is taken: %v", err)
	}
}

func TestUnusedAcceptedDifferencesCount(t *testing.T) {
	c := &comparison{accepted: &acceptedFile{Differences: []*difference{{Aspect: "status", Old: "x", Reason: "r"}}}}
	if c.unused(true); c.differences != 1 {
		t.Errorf("%d differences, expected 1", c.differences)
	}
}
