package contract

import (
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// sealsChats seals everything that a rule may seal with the default key.
const sealsChats = `package temporal

request contains {"action": "seal", "key": "default"}
response contains {"action": "open"} if input.sealed.key == "default"
`

// endKeys ends the life of all keys, while no proxy has the store open, and returns how many wrapped keys it has.
func (c *clinic) endKeys(at time.Time) (wraps int) {
	c.t.Helper()
	c.stop()
	defer c.start()
	db, err := sql.Open("sqlite", filepath.Join(c.dir, "keys.db"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("UPDATE temporal_seal_keys SET expires = $1 WHERE expires > $1", at.UnixMilli()); err != nil {
		c.t.Fatal(err)
	}
	if err := db.QueryRow("SELECT count(*) FROM temporal_seal_wraps").Scan(&wraps); err != nil {
		c.t.Fatal(err)
	}
	return wraps
}

// Values whose key has expired open nowhere: the key is destroyed, readers get a placeholder, and tasks fail with the reason. Every
// envelope of such a key is by reference.
func TestKeysExpire(t *testing.T) {
	t.Parallel()
	c := clinicWith(t, ", envelope: reference, life: 30d", sealsChats)
	clear := text("CANARY")
	sealed := signaled(t, c.signal(t, "clinic", "w", clear))[0]
	c.isSealed(t, "a payload under a key with a life", "clinic", sealed, clear)
	if n := len(sealed.Data); n > 46+64 {
		t.Errorf("an envelope of %d bytes; it carries its key, which outlives its end", n)
	}
	for _, series := range []string{`temporal_seal_key_life_seconds{key="default"} 2.592e+06`, `temporal_seal_expired_data_keys_total{key="default"} 0`} {
		if status, body := c.admin(t, "/metrics"); status != 200 || !strings.Contains(body, series) {
			t.Errorf("status %d, no metric %s", status, series)
		}
	}
	at := time.Now().Add(-time.Hour)
	before := c.endKeys(at)
	placeholder := document(`"[expired on ` + at.UTC().Format(time.DateOnly) + `]"`)
	equal(t, "an expired payload", c.open(t, "clinic", sealed)[0], placeholder)
	got := answered(t, c.history("temporal-ui", sealed), new(workflowservice.GetWorkflowExecutionHistoryResponse))
	equal(t, "an expired payload in a history for a reader", got.GetHistory().GetEvents()[0].GetWorkflowExecutionStartedEventAttributes().
		GetInput().GetPayloads()[0], placeholder)
	c.history("temporal-go", sealed).want(t, "DataLoss")
	e := c.pollActivity(t, "clinic", reply("PollActivityTaskQueue", activityTask("activity-1", sealed)))
	e.empty(t)
	e.wantNames(t, "PollActivityTaskQueue RespondActivityTaskFailed")
	f := forwardedAs(t, e, "RespondActivityTaskFailed", new(workflowservice.RespondActivityTaskFailedRequest))
	if info := f.Failure.GetApplicationFailureInfo(); info.GetType() != "Expired" || !info.GetNonRetryable() ||
		!strings.Contains(f.Failure.GetMessage(), "the life of its key ended on "+at.UTC().Format(time.DateOnly)) {
		t.Errorf("the activity was failed by %v", f)
	}
	eventually(t, time.Minute, func() error {
		if _, body := c.admin(t, "/metrics"); strings.Contains(body, `temporal_seal_expired_data_keys_total{key="default"} 0`) {
			return errors.New("no expired key was destroyed")
		}
		return nil
	})
	fresh := signaled(t, c.signal(t, "clinic", "w", clear))[0]
	c.isSealed(t, "with the next key", "clinic", fresh, clear)
	equal(t, "what had expired before", c.open(t, "clinic", sealed)[0], placeholder)
	if after := c.endKeys(time.Now().Add(24 * time.Hour)); before < 1 || after >= before+1 {
		t.Errorf("%d wrapped keys before their end, and %d afterwards with the next key", before, after)
	}
}

// A replica whose config lacks the life of a key makes no data keys that would stay, and says so. A life is given up by saying so, once for
// all.
func TestLifeIsMissing(t *testing.T) {
	t.Parallel()
	c := clinicWith(t, ", envelope: reference, life: 30d", sealsChats)
	clear := text("CANARY")
	sealed := signaled(t, c.signal(t, "clinic", "w", clear))[0]
	with := func(ofKey string) {
		t.Helper()
		before := c.setup.keys
		c.stop()
		c.setup.keys = strings.Replace(before, ", life: 30d", ofKey, 1)
		c.start()
		c.setup.keys = before
		equal(t, "what was sealed with a life", c.open(t, "clinic", sealed)[0], clear)
	}
	with("")
	c.signal(t, "clinic", "w", clear).refused(t, "Unavailable")
	for path, want := range map[string]string{"/metrics": `temporal_seal_key_life_conflicts{key="default"} 1`,
		"/readyz": `key "default": nothing is sealed with it in 1 namespaces`} {
		if _, body := c.admin(t, path); !strings.Contains(body, want) {
			t.Errorf("%s lacks %s: %s", path, want, body)
		}
	}
	with(", endless: true")
	c.isSealed(t, "a payload under a key whose life was given up", "clinic", signaled(t, c.signal(t, "clinic", "w", clear))[0], clear)
	with(", life: 30d")
	c.signal(t, "clinic", "w", clear).refused(t, "Unavailable")
}
