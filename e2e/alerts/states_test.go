package alerts

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// state is what an alert is about, and how it is made on a proxy.
type state struct {
	alert string
	also  []string // alerts that the same state raises
	extra string   // of the proxy's config
	// prepare changes the options of the proxy, or starts further ones. nil: nothing to do; so for the others.
	prepare    func(*site) error
	begin, end func(*site) error
	calls      func(*site) // are made all the time; s.holds says whether the state is to hold
}

// openAll leaves it to the keys what opens.
const openAll = "package temporal\nresponse contains {\"action\": \"open\"}\n"

// whileHolds makes calls in the state alone.
func whileHolds(call func(*site)) func(*site) {
	return func(s *site) {
		if s.holds.Load() {
			call(s)
		}
	}
}

// changed returns a payload with one byte changed.
func changed(p *commonpb.Payload) *commonpb.Payload {
	p = proto.CloneOf(p)
	p.Data[len(p.Data)-1] ^= 1
	return p
}

// keyFails seals all the time, in ever new namespaces, and polls for the tasks of one.
func keyFails(fail func(*site)) (begin, end func(*site) error, calls func(*site)) {
	begin = func(s *site) error { fail(s); return nil }
	end = func(s *site) error {
		s.kms.Heal()
		s.kms.SetState(s.key, kmsstub.Enabled)
		return nil
	}
	return begin, end, (*site).sealElsewhere
}

// rewritten replaces the proxy's config or policy.
func rewritten(change func(*harness.ProxyOptions)) func(*site) error {
	return func(s *site) error {
		o := s.options
		change(&o)
		_, err := harness.WriteConfig(o)
		return err
	}
}

var asBefore = rewritten(func(*harness.ProxyOptions) {})

var states = makeStates()

func makeStates() []state {
	revoke, restore, sealing := keyFails(func(s *site) { s.kms.SetState(s.key, kmsstub.Disabled) })
	break_, heal, _ := keyFails(func(s *site) { s.kms.Always("", kmsstub.Fault{Error: "KMSInternalException"}) })
	return []state{
		{alert: "SealedValueTampered", calls: whileHolds(func(s *site) {
			if p, err := s.seal("orders"); err == nil {
				s.query(changed(p))
			}
		})},
		{alert: "PayloadsNotOpened", calls: whileHolds(func(s *site) {
			if p, err := s.seal("billing"); err == nil {
				s.query(p)
			}
		})},
		{alert: "KeyRevoked", also: []string{"CallsFail"}, begin: revoke, end: restore, calls: sealing},
		{alert: "KeyServiceOutOfReach", also: []string{"CallsFail"}, begin: break_, end: heal, calls: sealing},
		keyStoreFails(),
		subjectKeys("SubjectKeysOutOfUse",
			"INSERT INTO temporal_seal_replicas (id, seen, seq, max_lag) VALUES ('of a newer store', 0, 7, 0)",
			"DELETE FROM temporal_seal_replicas WHERE id = 'of a newer store'"),
		subjectKeys("SubjectsLost",
			"CREATE TABLE hidden AS SELECT * FROM temporal_seal_subject_keys; DELETE FROM temporal_seal_subject_keys",
			"INSERT INTO temporal_seal_subject_keys SELECT * FROM hidden"),
		keysOverdue(),
		aliasMoves(),
		{alert: "PollsHeld", also: []string{"KeyServiceOutOfReach"}, begin: break_, end: heal, calls: func(s *site) {
			if !s.begun.Load() {
				return // with a key at hand polls would not be held
			}
			s.does("PollActivityTaskQueue", &workflowservice.PollActivityTaskQueueRequest{Namespace: "orders"},
				blackbox.Message(&workflowservice.PollActivityTaskQueueResponse{}))
		}},
		{alert: "TasksAnsweredInWorkersPlace", also: []string{"PayloadsNotOpened"}, calls: whileHolds(func(s *site) {
			if p, err := s.seal("billing"); err == nil {
				s.does("PollActivityTaskQueue", &workflowservice.PollActivityTaskQueueRequest{Namespace: "orders"},
					blackbox.Message(&workflowservice.PollActivityTaskQueueResponse{TaskToken: []byte("t"), ActivityId: "1",
						WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: "w", RunId: "r"},
						Input:             &commonpb.Payloads{Payloads: []*commonpb.Payload{p}}}))
			}
		})},
		{alert: "PolicyFails", also: []string{"CallsFail"}, prepare: func(s *site) error {
			s.options.Policy = openAll + "request contains {\"action\": \"seal\", \"key\": sprintf(\"missing-%s\", [input.namespace])} if input.namespace == \"faulty\"\n"
			return nil
		}, calls: whileHolds(func(s *site) { _, _ = s.seal("faulty") })},
		{alert: "PolicyStale", begin: rewritten(func(o *harness.ProxyOptions) { o.Policy = "package temporal\nthis is no rule\n" }), end: asBefore},
		{alert: "ConfigStale", begin: rewritten(func(o *harness.ProxyOptions) { o.Extra = "unheard_of: true\n" }), end: asBefore},
		{alert: "RestartPending", begin: rewritten(func(o *harness.ProxyOptions) { o.Extra = "data_key_life: 12h\n" }), end: asBefore},
		twoReplicas("PolicyRevisionsDiffer",
			rewrittenSecond(func(o *harness.ProxyOptions) { o.Policy = openAll + "# another revision\n" }),
			rewrittenSecond(func(*harness.ProxyOptions) {})),
		buildsDiffer(),
		startedSo("ShadowStays", "shadow: true\n"),
		startedSo("DependencyMissing", "codec_server: {address: \"127.0.0.1:0\", callers: {jwt: {issuer: \"https://issuer.example\", "+
			"audience: temporal, namespaces: [orders], jwks_url: \"http://127.0.0.1:1/keys\"}}}\n"),
		{alert: "CandidateStale", prepare: func(s *site) error { s.options.Candidate = openAll; return nil },
			begin: rewritten(func(o *harness.ProxyOptions) { o.Candidate = "package temporal\nthis is no rule\n" }), end: asBefore},
		certificateExpires(),
		{alert: "ProxyPanicked", also: []string{"CallsFail"}, prepare: func(s *site) (err error) {
			s.options.Binary, err = buildFaulty()
			return err
		}, calls: whileHolds(func(s *site) {
			s.does("GetClusterInfo", &workflowservice.GetClusterInfoRequest{}, blackbox.Answer{})
		})},
		{alert: "CallsFail", calls: func(s *site) {
			a := blackbox.Answer{}
			if s.holds.Load() {
				a.Status = &spb.Status{Code: int32(codes.Unavailable), Message: "the server is down"}
			}
			s.does("GetWorkflowExecutionHistory", &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: "orders"}, a)
		}},
		{alert: "LimitReached", also: []string{"CallsFail"}, extra: "limits: {long_polls: 2}\n", calls: whileHolds(func(s *site) {
			var polls sync.WaitGroup
			for range 6 {
				polls.Go(func() {
					s.does("PollActivityTaskQueue", &workflowservice.PollActivityTaskQueueRequest{Namespace: "orders"},
						blackbox.Answer{Delay: time.Second})
				})
			}
			polls.Wait()
		})},
		auditFails(),
	}
}

// twoReplicas is a state of the second of two proxies.
func twoReplicas(alert string, begin, end func(*site) error) state {
	return state{alert: alert, begin: begin, end: end, prepare: func(s *site) error { return s.add(s.second()) }}
}

// second are the options of the second replica.
func (s *site) second() harness.ProxyOptions {
	o := s.options
	o.Dir = filepath.Join(s.dir, "second")
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		s.t.Error(err)
	}
	return o
}

func rewrittenSecond(change func(*harness.ProxyOptions)) func(*site) error {
	return func(s *site) error {
		o := s.second()
		change(&o)
		_, err := harness.WriteConfig(o)
		return err
	}
}

// buildsDiffer has a replica of another version join and leave. Its address is known from the start, since Prometheus has to
// know it: it is started to find that out.
func buildsDiffer() state {
	var other harness.ProxyOptions
	return state{alert: "BuildsDiffer", prepare: func(s *site) error {
		other = s.second()
		return s.add(other)
	}, begin: func(s *site) (err error) {
		return s.replaceSecond(&other, buildFaulty)
	}, end: func(s *site) error {
		return s.replaceSecond(&other, harness.BuildProxy)
	}}
}

// startedSo has a second replica run with further config for a while.
func startedSo(alert, extra string) state {
	var other harness.ProxyOptions
	return state{alert: alert, prepare: func(s *site) error {
		other = s.second()
		return s.add(other)
	}, begin: func(s *site) error {
		other.Extra += extra
		return s.replaceSecond(&other, harness.BuildProxy)
	}, end: func(s *site) error {
		other.Extra = strings.TrimSuffix(other.Extra, extra)
		return s.replaceSecond(&other, harness.BuildProxy)
	}}
}

// replaceSecond starts the second replica anew with another binary, at the same admin address.
func (s *site) replaceSecond(o *harness.ProxyOptions, build func() (string, error)) (err error) {
	old := s.proxies[0]
	if err := old.Stop(); err != nil {
		return err
	}
	if o.Binary, err = build(); err != nil {
		return err
	}
	o.Args = []string{"--admin", old.Admin, "--start-timeout", "2s"}
	p, err := harness.StartProxy(s.t.Context(), *o)
	if err != nil {
		return err
	}
	s.t.Cleanup(p.Kill)
	s.proxies[0] = p
	return nil
}

// certificateExpires has the codec server's certificate expire within a day, and renews it.
func certificateExpires() state {
	days := func(n int) func(*site) error {
		return func(s *site) error {
			return harness.WriteCertificate(s.dir, "codec", time.Now().Add(-time.Hour), time.Now().Add(time.Duration(n)*24*time.Hour))
		}
	}
	return state{alert: "CertificateExpires", prepare: func(s *site) error {
		file := filepath.Join(s.dir, "codec")
		s.options.Extra = fmt.Sprintf("codec_server: {address: \"127.0.0.1:0\", tls: {cert_file: %q, key_file: %q}}\n", file+".crt", file+".key")
		return days(90)(s)
	}, begin: days(1), end: days(90)}
}

// auditFails has the audit file lead to a full device.
func auditFails() state {
	file := func(s *site) string { return filepath.Join(s.dir, "audit.jsonl") }
	return state{alert: "AuditIncomplete", prepare: func(s *site) error {
		s.options.Extra = fmt.Sprintf("audit: {file: %q}\n", file(s))
		return nil
	}, begin: func(s *site) error {
		if err := os.Rename(file(s), file(s)+".old"); err != nil && !os.IsNotExist(err) {
			return err
		}
		return os.Symlink("/dev/full", file(s))
	}, end: func(s *site) error {
		return os.Remove(file(s))
	}, calls: func(s *site) {
		if p, err := s.seal("orders"); err == nil {
			s.query(p)
		}
	}}
}

// bySubject seals for a subject whatever the payload is.
const bySubject = openAll + `request contains {"action": "seal", "subject": {"pointer": "/patient"}, "default_subject": "somebody"}
`

// subjectKeys is a key store in PostgreSQL with the key of a subject for which calls seal, and what statements change in it.
func subjectKeys(alert, begin, end string) state {
	return inStore(alert, "temporal_seal_subject_keys", begin, end, func(o *harness.ProxyOptions) { o.Policy = bySubject })
}

// keysOverdue ends the life of a key, which a trigger keeps from being deleted.
func keysOverdue() state {
	return inStore("KeysOverdue", "temporal_seal_wraps", `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $$kept$$; END';
CREATE TRIGGER refuse BEFORE DELETE ON temporal_seal_wraps FOR EACH ROW EXECUTE FUNCTION refuse();
UPDATE temporal_seal_keys SET expires = 1700000000000 WHERE expires > 0`, "DROP TRIGGER refuse ON temporal_seal_wraps",
		func(o *harness.ProxyOptions) { o.Keys[0].Reference, o.Keys[0].Life = true, "30d" })
}

// inStore is a key store in PostgreSQL, what statements change in it once a table has rows, and how the proxy seals.
func inStore(alert, table, begin, end string, sealing func(*harness.ProxyOptions)) state {
	var database *peers.Postgres
	execute := func(statements string) func(*site) error {
		return func(s *site) error { return database.Execute(s.t.Context(), statements) }
	}
	return state{alert: alert, also: []string{"CallsFail"}, prepare: func(s *site) error {
		dir, err := os.MkdirTemp("", "pg")
		if err != nil {
			return err
		}
		s.t.Cleanup(func() { _ = os.RemoveAll(dir) })
		if database, err = peers.StartPostgres(s.t.Context(), dir); err != nil {
			return err
		}
		s.t.Cleanup(database.Kill)
		program, err := harness.BuildProxy()
		if err != nil {
			return err
		}
		id, err := exec.CommandContext(s.t.Context(), program, "keystore", "init", database.URL()).Output()
		if err != nil {
			return err
		}
		sealing(&s.options)
		s.options.Extra += fmt.Sprintf("key_store: {id: %s, url: %q}\n", strings.TrimSpace(string(id)), database.URL())
		return nil
	}, begin: func(s *site) (err error) {
		for range 60 { // until calls have made a key
			if err = execute("SELECT 1 / count(*) FROM " + table + ";" + begin)(s); err == nil {
				return nil
			}
			time.Sleep(time.Second)
		}
		return err
	}, end: execute(end), calls: func(s *site) { _, _ = s.seal("orders") }}
}

// aliasMoves has the alias of the key name another key, and names the key before by its ARN to end that.
func aliasMoves() state {
	return state{alert: "KeyAliasMoved", begin: func(s *site) error {
		s.kms.SetAlias("alias/default", s.kms.CreateKey(false))
		return rewritten(func(o *harness.ProxyOptions) { o.Extra += "revoked_data_keys: []\n" })(s)
	}, end: func(s *site) error {
		return rewritten(func(o *harness.ProxyOptions) {
			o.Keys = slices.Clone(o.Keys)
			o.Keys[0].OpenOnly = []string{"awskms://arn:aws:kms:eu-central-1:111122223333:key/" + s.key + "?endpoint=" + s.kms.URL}
		})(s)
	}}
}

// keyStoreFails is a key store in DynamoDB whose service answers with errors for a while.
func keyStoreFails() state {
	const id = "00112233445566778899aabbccddeeff"
	var broken atomic.Bool
	return state{alert: "KeyStoreOutOfReach", also: []string{"SubjectKeysOutOfUse"}, prepare: func(s *site) error {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-amz-json-1.0")
			if broken.Load() {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			_, _ = fmt.Fprintf(w, `{"Item": {"pk": {"S": "meta"}, "store_id": {"S": %q}, "schema": {"N": "2"}}}`, id)
		}))
		s.t.Cleanup(server.Close)
		s.options.Extra += fmt.Sprintf("key_store: {id: %s, url: \"dynamodb://keys?region=eu-central-1&endpoint=%s\"}\n", id, server.URL)
		return nil
	}, begin: func(*site) error {
		broken.Store(true)
		return nil
	}, end: func(*site) error {
		broken.Store(false)
		return nil
	}}
}
