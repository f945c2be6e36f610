package readers

import (
	"fmt"
	"testing"
)

// TestTypedIn starts workflows with the CLI, past the proxy. The codec server seals what is typed, for those who reach the namespace.
func TestTypedIn(t *testing.T) {
	b := start(t)
	ctx, cancel := b.context()
	defer cancel()
	doctor := b.issuer.token(people[0].person, nil)
	typed := func(token, workflow string) bool {
		text := `"` + value("clinic", workflow) + `"`
		out, failed := b.cli(ctx, token, "workflow", "start", "--namespace", "clinic", "--workflow-id", workflow, "--type", "Note", "--task-queue", "nobody",
			"--input", text, "--memo", "note="+text, "--command-timeout", "10s")
		if failed {
			b.Logf("the CLI says: %s", out)
		}
		return !failed
	}
	what := "typed in by a doctor"
	if !typed(doctor, "typed") {
		t.Fatal("a doctor cannot start a workflow")
	}
	sealed, err := stored(ctx, b.dial(b.server.Address, "clinic", ""), "typed")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%-44s stored as %s", what, all.check(b, what+", stored", b.judgeAll(sealed, "clinic", "typed"), ciphertext))
	for _, d := range apis {
		fmt.Printf(", %s: %s", d.name, all.check(b, what+", "+d.name, d.read(b, "clinic", "typed", doctor), opened))
	}
	fmt.Println()
	what = "typed in by a stranger"
	got := refused
	if typed(b.issuer.token(people[6].person, nil), "strange") {
		got = opened
	}
	fmt.Printf("%-44s %s\n", what, all.check(b, what, got, refused))
	if _, err := stored(ctx, b.dial(b.server.Address, "clinic", ""), "strange"); err == nil {
		t.Error("the workflow was started all the same")
	}
}
