package operator

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

// dead is an address on this machine where nothing listens, until the returned function starts something there.
func (s *site) dead() (address string, listen func() net.Listener) {
	s.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	s.ok(err)
	address = l.Addr().String()
	s.ok(l.Close())
	return address, func() net.Listener {
		s.Helper()
		l, err := net.Listen("tcp", address)
		s.ok(err)
		s.Cleanup(func() { _ = l.Close() })
		return l
	}
}

// otherKey makes a KMS key behind an alias, in a state.
func (s *site) otherKey(alias string, state kmsstub.State) (id string) {
	s.Helper()
	id = s.kms.CreateKey(false)
	s.kms.SetAlias("alias/"+alias, id)
	s.kms.SetState(id, state)
	return id
}

// echo runs a workflow in a namespace through a proxy, with a worker of its own.
func (s *site) echo(p *proxy, namespace string) {
	s.Helper()
	c := s.client(p.address, namespace)
	s.work(c, func(r worker.Registry) {
		r.RegisterWorkflowWithOptions(func(_ workflow.Context, text string) (string, error) {
			return text, nil
		}, workflow.RegisterOptions{Name: "Echo"})
	})
	var got string
	ctx, cancel := context.WithTimeout(s.Context(), 30*time.Second)
	defer cancel()
	s.ok(s.start(c, "-"+namespace, "Echo", "there").Get(ctx, &got))
	s.want(got == "there", "the workflow of %s returned %q", namespace, got)
}

// signal sends a payload through the first listener, and returns what the caller receives.
func (s *site) signal(p *proxy, namespace string) blackbox.Response {
	s.Helper()
	return s.do(p.address, "SignalWorkflowExecution", blackbox.Marshal(&workflowservice.SignalWorkflowExecutionRequest{
		Namespace: namespace, WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: "w"}, SignalName: "s",
		Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{
			{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"CANARY"`)}}}}), 10*time.Second)
}

// poll polls for a workflow task through the first listener.
func (s *site) poll(p *proxy, namespace string, timeout time.Duration) blackbox.Response {
	s.Helper()
	return s.do(p.address, "PollWorkflowTaskQueue",
		blackbox.Marshal(&workflowservice.PollWorkflowTaskQueueRequest{Namespace: namespace}), timeout)
}

func (s *site) do(address, method string, body []byte, timeout time.Duration) blackbox.Response {
	s.Helper()
	c, err := blackbox.Dial(address)
	s.ok(err)
	defer c.Close()
	return c.Do(s.Context(), blackbox.Request{Method: method, Body: body, Timeout: timeout})
}

// unavailable requires that a call is refused with Unavailable and a text with these parts.
func (s *site) unavailable(r blackbox.Response, parts ...string) {
	s.Helper()
	s.want(r.Code() == "Unavailable", "the caller received %s: %s", r.Code(), r.Status.GetMessage())
	s.contains("the answer", r.Status.GetMessage(), parts...)
}

// noTask requires that a poll has ended without an error and without a task.
func (s *site) noTask(r blackbox.Response) {
	s.Helper()
	s.want(r.Code() == "OK", "the poll ended with %s: %s", r.Code(), r.Status.GetMessage())
	var got workflowservice.PollWorkflowTaskQueueResponse
	s.ok(proto.Unmarshal(r.Body, &got))
	s.want(len(got.GetTaskToken()) == 0, "the poll brought a task")
}

// reached reports whether the scripted frontend has received a request of a method for a namespace.
func (s *site) reached(method, namespace string) bool {
	for _, q := range s.frontend().Received() {
		if q.Name() == method && strings.Contains(string(q.Body), namespace) {
			return true
		}
	}
	return false
}

// healthIs checks what the proxy's gRPC health reports.
func (s *site) healthIs(p *proxy, want healthpb.HealthCheckResponse_ServingStatus) func() error {
	return func() error {
		conn, err := grpc.NewClient(p.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close()
		got, err := healthpb.NewHealthClient(conn).Check(s.Context(), &healthpb.HealthCheckRequest{})
		if err == nil && got.Status != want {
			err = fmt.Errorf("gRPC health is %s, want %s", got.Status, want)
		}
		return err
	}
}

const oneClinicKey = `
listeners: [{address: "127.0.0.1:0"}]
upstreams: [{address: "${frontend}"}]
admin: 127.0.0.1:0
keys:
  - {name: clinic, namespaces: [clinic], active: "awskms://alias/clinic?${kms}"}
  - {name: default, namespaces: [orders], active: "${key}"}
`

func TestStartWithoutAKey(t *testing.T) {
	t.Parallel()
	scenario(t, "3.1", "a disabled key of one namespace", func(s *site) {
		s.otherKey("clinic", kmsstub.Disabled)
		p := s.serve(strings.Replace(oneClinicKey, "${frontend}", "${temporal}", 1))
		s.echo(p, "orders")
		s.unavailable(s.signal(p, "clinic"), `key "clinic"`, `namespace "clinic"`, "disabled")
		code, _ := p.get("/readyz")
		s.want(code == 200, "/readyz: %d", code)
	})
	scenario(t, "3.1", "a key that exists nowhere, and one that hangs, do not blame each other", func(s *site) {
		s.otherKey("clinic", kmsstub.Enabled)
		slow, listen := s.dead()
		listen() // it accepts, and never answers
		p := s.serve(oneClinicKey+fmt.Sprintf(`  - {name: hangs, namespaces: [team-a], active: "awskms://alias/x?region=eu-central-1&endpoint=http://%s"}
  - {name: gone, namespaces: [team-b], active: "awskms://alias/gone?${kms}"}
`, slow), "--start-timeout", "2s")
		s.want(s.signal(p, "orders").Code() == "OK" && s.signal(p, "clinic").Code() == "OK", "namespaces whose keys answer do not work")
		_, page := p.get("/readyz")
		s.contains("/readyz", page, `keys[2] "hangs"`, `keys[3] "gone"`, "alias/gone is not found")
		s.lacks("/readyz", page, `keys[0]`, `keys[1]`)
	})
	scenario(t, "3.1", "a key that cannot be one still stops the start, with all that is wrong", func(s *site) {
		s.write("garbage.key", "not a key file")
		s.write("none.key", "neither")
		got := s.run("serve", "--config", s.write("bad.yaml", oneClinicKey+`  - {name: garbage, namespaces: [team-a], active: "local:${dir}/garbage.key"}
  - {name: none, namespaces: [team-b], active: "local:${dir}/none.key"}
`))
		s.want(got.code == 1, "exit code %d", got.code)
		s.contains("the error", got.stderr, `keys[2] "garbage"`, `keys[3] "none"`)
		got = s.run("serve", "--config", s.write("worse.yaml", oneClinicKey+`  - {name: none, namespaces: [team-b], active: "awskms://?${kms}"}
  - {name: garbage, namespaces: [team-a], active: "vault://vault.example"}
`))
		s.want(got.code == 1, "exit code %d", got.code)
		s.contains("the error", got.stderr, "keys[2].active", "keys[3].active")
	})
	scenario(t, "3.5", "/readyz says not ready while no key answers", func(s *site) {
		s.otherKey("clinic", kmsstub.Disabled)
		s.kms.Always("", kmsstub.Fault{Error: "KMSInternalException"})
		p := s.serve(oneClinicKey, "--start-timeout", "1s")
		code, page := p.get("/readyz")
		s.want(code == 503, "/readyz: %d", code)
		s.contains("/readyz", page, "not ready: no key answers", `keys[0] "clinic"`, `keys[1] "default"`)
		s.eventually(s.healthIs(p, healthpb.HealthCheckResponse_NOT_SERVING))
		s.kms.Heal()
		s.eventually(s.healthIs(p, healthpb.HealthCheckResponse_SERVING))
		s.eventually(func() error {
			if code, page := p.get("/readyz"); code != 200 || strings.Contains(page, `keys[1] "default"`) {
				return fmt.Errorf("/readyz: %d %s", code, page)
			}
			return nil
		})
	})
	scenario(t, "3.4", "polls that need the key are held, and calls are Unavailable", func(s *site) {
		id := s.otherKey("clinic", kmsstub.Disabled)
		p := s.serve(oneClinicKey)
		began := time.Now()
		s.noTask(s.poll(p, "clinic", 4*time.Second))
		s.want(time.Since(began) > 2*time.Second, "the poll was held for %v alone", time.Since(began))
		s.unavailable(s.signal(p, "clinic"), "disabled")
		s.want(!s.reached("PollWorkflowTaskQueue", "clinic") && !s.reached("SignalWorkflowExecution", "clinic"), "a call reached the frontend")
		s.poll(p, "orders", 4*time.Second)
		s.want(s.reached("PollWorkflowTaskQueue", "orders"), "the poll of another namespace did not reach the frontend")
		_, page := p.get("/readyz")
		s.contains("/readyz", page, `key does not answer: keys[0] "clinic"`, "Disabled")
		stale, _ := p.metric("temporal_seal_config_stale")
		s.want(stale == 1, "temporal_seal_config_stale is %v", stale)
		s.kms.SetState(id, kmsstub.Enabled)
		s.eventually(func() error {
			if r := s.signal(p, "clinic"); r.Code() != "OK" {
				return fmt.Errorf("%s: %s", r.Code(), r.Status.GetMessage())
			}
			return nil
		})
		s.within(35*time.Second, func() error {
			if _, page := p.get("/readyz"); strings.Contains(page, "does not answer") {
				return fmt.Errorf("/readyz: %s", page)
			}
			return nil
		})
	})
	scenario(t, "3.4", "polls wait for a key that the namespace's policy names", func(s *site) {
		s.otherKey("phi", kmsstub.Disabled)
		s.write("spaces/clinic.rego", "package temporal.namespaces[\"clinic\"]\n\nrequest contains {\"action\": \"seal\", \"key\": \"phi\"}\n")
		p := s.serve(`
listeners: [{address: "127.0.0.1:0"}]
upstreams: [{address: "${frontend}"}]
admin: 127.0.0.1:0
policy: {namespaces: "${dir}/spaces"}
keys: [{name: phi, active: "awskms://alias/phi?${kms}"}, {name: default, active: "${key}"}]
`)
		s.want(s.signal(p, "orders").Code() == "OK", "another namespace does not work")
		s.unavailable(s.signal(p, "clinic"), `key "phi"`)
		s.noTask(s.poll(p, "clinic", 4*time.Second))
		s.want(!s.reached("PollWorkflowTaskQueue", "clinic"), "the poll was not held")
	})
}

func TestStartWithoutAPolicy(t *testing.T) {
	t.Parallel()
	scenario(t, "3.4", "a namespace whose policy does not load is held", func(s *site) {
		broken := "package temporal.namespaces[\"clinic\"]\n\nrequest contains {\"action\": \"seal\" if true\n"
		s.write("spaces/clinic.rego", broken)
		s.write("open.rego", "package temporal\n\nrequest contains {\"action\": \"pass\"}\n")
		p := s.serve(`
listeners: [{address: "127.0.0.1:0"}]
upstreams: [{address: "${frontend}"}]
admin: 127.0.0.1:0
policy: {file: "${dir}/open.rego", namespaces: "${dir}/spaces"}
keys: [{name: default, active: "${key}"}]
`)
		s.want(s.signal(p, "orders").Code() == "OK", "another namespace does not work")
		s.unavailable(s.signal(p, "clinic"), "the namespace's policy does not load", "corrected")
		s.noTask(s.poll(p, "clinic", 4*time.Second))
		_, page := p.get("/readyz")
		s.contains("/readyz", page, `policy of namespace "clinic": it does not load, so the namespace is held`, "clinic.rego:3")
		stale, _ := p.metric("temporal_seal_policy_stale", "namespace", "clinic")
		s.want(stale == 1, "temporal_seal_policy_stale is %v", stale)
		p.awaitLog("a namespace's policy does not load: the namespace is held until its file is corrected", "namespace", "clinic")
		// Another change leaves it held: the platform's rules alone would pass in clear what the namespace may want sealed.
		s.write("open.rego", "package temporal\n\n# changed\nrequest contains {\"action\": \"pass\"}\n")
		p.awaitLog("policy reloaded")
		s.unavailable(s.signal(p, "clinic"), "the namespace's policy does not load")
		s.want(!s.reached("SignalWorkflowExecution", "clinic") && !s.reached("PollWorkflowTaskQueue", "clinic"), "a call reached the frontend")
		s.write("spaces/clinic.rego", strings.Replace(broken, "if true", "}", 1))
		s.eventually(func() error {
			if r := s.signal(p, "clinic"); r.Code() != "OK" {
				return fmt.Errorf("%s: %s", r.Code(), r.Status.GetMessage())
			}
			return nil
		})
	})
}

func TestStartWithoutAnUpstream(t *testing.T) {
	t.Parallel()
	scenario(t, "3.2", "one dead upstream of two", func(s *site) {
		address, _ := s.dead()
		p := s.serve(fmt.Sprintf(`
listeners: [{address: "127.0.0.1:0"}]
upstreams: [{namespaces: [clinic], address: "%s"}, {address: "${temporal}"}]
admin: 127.0.0.1:0
keys: [{name: default, active: "${key}"}]
`, address), "--start-timeout", "2s")
		s.echo(p, "orders")
		s.unavailable(s.signal(p, "clinic"))
		code, page := p.get("/readyz")
		s.want(code == 200, "/readyz: %d", code)
		s.contains("/readyz", page, "upstream "+address+" has not answered since the start", "connection refused")
	})
	scenario(t, "3.4", "polls for the namespace of a dead upstream are held, and go on once it is there", func(s *site) {
		address, listen := s.dead()
		p := s.serve(fmt.Sprintf(`
listeners: [{address: "127.0.0.1:0"}]
upstreams: [{namespaces: [clinic], address: "%s"}, {address: "${temporal}"}]
admin: 127.0.0.1:0
keys: [{name: default, active: "${key}"}]
`, address), "--start-timeout", "1s")
		began := time.Now()
		s.noTask(s.poll(p, "clinic", 5*time.Second))
		s.want(time.Since(began) > 2*time.Second, "the poll was held for %v alone", time.Since(began))
		p.awaitLog("polls are held and end empty, since their upstream cannot be reached: they go on once it can", "namespace", "clinic")
		relay(listen(), s.frontend().Address)
		s.eventually(func() error {
			if s.poll(p, "clinic", 4*time.Second); !s.reached("PollWorkflowTaskQueue", "clinic") {
				return fmt.Errorf("the poll does not reach the upstream")
			}
			return nil
		})
	})
	scenario(t, "3.6", "an upstream that comes later", func(s *site) {
		address, listen := s.dead()
		p := s.serve(fmt.Sprintf(`
listeners: [{address: "127.0.0.1:0"}]
upstreams: [{address: "%s"}]
admin: 127.0.0.1:0
keys: [{name: default, active: "${key}"}]
`, address), "--start-timeout", "1s")
		code, page := p.get("/readyz")
		s.want(code == 503, "/readyz: %d", code)
		s.contains("/readyz", page, "not ready: no upstream has answered yet")
		relay(listen(), s.frontend().Address)
		s.eventually(func() error {
			if code, page := p.get("/readyz"); code != 200 || strings.Contains(page, address) {
				return fmt.Errorf("/readyz: %d %s", code, page)
			}
			return nil
		})
		s.want(s.signal(p, "orders").Code() == "OK", "the upstream answers, and a call through the proxy does not")
	})
}

// relay carries connections to an address until the listener ends.
func relay(l net.Listener, to string) {
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				_ = from.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{from, server}, {server, from}} {
				go func() {
					_, _ = pair[1].(*net.TCPConn).ReadFrom(pair[0])
					_ = pair[1].Close()
				}()
			}
		}
	}()
}

func TestStartWithoutAKeySet(t *testing.T) {
	t.Parallel()
	const config = `
listeners:
  - {name: inside, address: "127.0.0.1:0"}
  - name: tokens
    address: "127.0.0.1:0"
    callers: {jwt: {issuer: "https://login.example.com/", audience: temporal-seal, jwks_url: "http://%s/keys", namespaces: ["*"]}}
upstreams: [{address: "${frontend}"}]
admin: 127.0.0.1:0
keys: [{name: default, active: "${key}"}]
`
	scenario(t, "3.3", "a dead issuer disables the callers of its listener until it answers", func(s *site) {
		address, listen := s.dead()
		p := s.serve(fmt.Sprintf(config, address), "--start-timeout", "1s")
		s.want(s.signal(p, "orders").Code() == "OK", "the other listener does not work")
		c, err := blackbox.Dial(p.listeners[1])
		s.ok(err)
		defer c.Close()
		c.Token = "eyJhbGciOiJFUzI1NiJ9.e30.AAAA"
		poll := blackbox.Request{Method: "GetSystemInfo"}
		s.unavailable(c.Do(s.Context(), poll), "the keys of their issuer could not be fetched yet")
		code, page := p.get("/readyz")
		s.want(code == 200, "/readyz: %d", code)
		s.contains("/readyz", page, "key set http://"+address+"/keys has not answered since the start", `listener "tokens"`)
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		s.ok(err)
		point, err := key.PublicKey.Bytes()
		s.ok(err)
		number := func(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
		go func() {
			_ = http.Serve(listen(), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintf(w, `{"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "x": "%s", "y": "%s"}]}`, number(point[1:33]), number(point[33:]))
			}))
		}()
		s.eventually(func() error {
			if _, page := p.get("/readyz"); strings.Contains(page, address) {
				return fmt.Errorf("/readyz: %s", page)
			}
			return nil
		})
		if r := c.Do(s.Context(), poll); r.Code() != "Unauthenticated" {
			s.Errorf("a forged token receives %s: %s", r.Code(), r.Status.GetMessage())
		}
	})
	scenario(t, "3.3", "a page in the place of the key set", func(s *site) {
		address, listen := s.dead()
		l := listen()
		go func() {
			_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>login</html>") }))
		}()
		p := s.serve(fmt.Sprintf(config, address), "--start-timeout", "1s")
		s.want(s.signal(p, "orders").Code() == "OK", "the other listener does not work")
		_, page := p.get("/readyz")
		s.contains("/readyz", page, "not a JSON Web Key Set")
	})
}

func TestStartIsNotSilent(t *testing.T) {
	t.Parallel()
	scenario(t, "3.7", "one line for each thing that the start waits for, and another after ten seconds", func(s *site) {
		upstream, listenUpstream := s.dead()
		kms, listenKMS := s.dead()
		listenUpstream()
		listenKMS()
		p := s.launch(fmt.Sprintf(`
listeners: [{address: "127.0.0.1:0"}]
upstreams: [{namespaces: [clinic], address: "%s"}, {address: "${frontend}"}]
admin: 127.0.0.1:0
keys:
  - {name: clinic, namespaces: [clinic], active: "awskms://alias/x?region=eu-central-1&endpoint=http://%s"}
  - {name: default, active: "${key}"}
`, upstream, kms), "--start-timeout", "13s")
		p.awaitServing()
		const line = "the start waits for an answer"
		for of, name := range map[string]string{"upstream": upstream, "key": "awskms://alias/x?region=eu-central-1&endpoint=http://" + kms} {
			n := p.logged(line, "of", of, "name", name)
			s.want(n == 2, "%d lines about %s %s", n, of, name)
		}
		s.want(p.logged(line) == 4, "%d lines", p.logged(line))
		p.awaitLog("a key does not answer: what needs it is disabled, and polls that need it are held, until it answers")
		p.awaitLog("the proxy starts without an answer of a dependency, and keeps trying", "of", "upstream", "name", upstream)
	})
}
