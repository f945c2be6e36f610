package abuse

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func init() {
	add(second, "health checks by the thousand", func(t target) error {
		return t.each(8, t.Token, func(c *grpc.ClientConn, _ int) {
			ctx, cancel := context.WithTimeout(t.ctx, time.Second)
			defer cancel()
			in, out := []byte(nil), []byte(nil)
			_ = c.Invoke(ctx, grpc_health_v1.Health_Check_FullMethodName, &in, &out)
		})
	})
	add(second, "health watches that stay", func(t target) error {
		return t.flood(10, t.Token, 65535, func(r *raw) error {
			for range 2000 {
				id, err := r.open(grpc_health_v1.Health_Watch_FullMethodName, "")
				if err != nil {
					return err
				}
				_ = r.data(id, true, message(nil))
			}
			t.sleep(5 * time.Second)
			return nil
		})
	})
	add(second, "reflection streams without a token", unfinished(toToken, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", 2, 5000, 0, 0))
	add(second, "reflection streams with large requests", func(t target) error {
		return t.flood(20, t.Token, 65535, func(r *raw) error {
			id, err := r.open("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", t.Secret)
			if err != nil {
				return err
			}
			const size = 30_000_000
			_ = r.data(id, false, prefix(size))
			return r.stream(t.ctx, id, size-1)
		})
	})
	add(second, "codec server: large bodies without a token", func(t target) error { return bodies(t, "") })
	add(second, "codec server: large bodies with a token", func(t target) error { return bodies(t, t.Secret) })
	add(second, "codec server: bodies that never end", func(t target) error {
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				r, w := io.Pipe()
				go func() {
					for i := 0; i < 8000 && !t.over(); i++ {
						if _, err := w.Write(make([]byte, 1000)); err != nil {
							return
						}
						t.sleep(time.Millisecond)
					}
					<-t.ctx.Done()
					_ = w.Close()
				}()
				t.post("/encode", t.Secret, r)
			})
		}
		wg.Wait()
		return nil
	})
	add(second, "codec server: empty payloads by the million", func(t target) error {
		body := `{"payloads":[` + strings.Repeat("{},", 2_000_000) + `{}]}`
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for !t.over() {
					t.post("/encode", t.Secret, strings.NewReader(body))
				}
			})
		}
		wg.Wait()
		return nil
	})
	add(second, "codec server: connections that say nothing", silent(func(t target) string { return t.Codec }, 2000, false))
	add(second, "admin: requests by the thousand", func(t target) error {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for !t.over() {
					for _, path := range []string{"/metrics", "/keys", "/readyz", "/"} {
						if a, err := http.Get("http://" + t.Admin + path); err == nil {
							_, _ = io.Copy(io.Discard, a.Body)
							_ = a.Body.Close()
						}
					}
				}
			})
		}
		wg.Wait()
		return nil
	})

	add(fairness, "one caller takes all calls that it gets", func(t target) error {
		return t.flood(4, t.Token, 65535, func(r *raw) error {
			for range 3000 {
				if _, err := r.open(start, t.Secret); err != nil {
					return err
				}
			}
			t.sleep(5 * time.Second)
			return nil
		})
	})
	add(fairness, "one caller takes all bytes that it gets", func(t target) error {
		return t.flood(20, t.Token, 65535, func(r *raw) error {
			const size = 4_000_000
			for range 4 {
				id, err := r.open(start, t.Secret)
				if err != nil {
					return err
				}
				if err := r.data(id, false, append(prefix(size), make([]byte, 15_000)...)); err != nil {
					return err
				}
			}
			t.sleep(5 * time.Second)
			return nil
		})
	})
	add(fairness, "one caller takes all long polls that it gets", func(t target) error {
		request := message(marshal(&workflowservice.PollWorkflowTaskQueueRequest{Namespace: badNamespace}))
		return t.flood(4, t.Token, 65535, func(r *raw) error {
			for range 9000 {
				id, err := r.open(poll, t.Secret)
				if err != nil {
					return err
				}
				if err := r.data(id, true, request); err != nil {
					return err
				}
			}
			t.sleep(5 * time.Second)
			return nil
		})
	})
	add(fairness, "the anonymous take all long polls that they get", func(t target) error {
		request := message(marshal(&workflowservice.PollWorkflowTaskQueueRequest{Namespace: "open-1"}))
		return t.flood(4, t.Open, 65535, func(r *raw) error {
			for range 9000 {
				id, err := r.open(poll, "")
				if err != nil {
					return err
				}
				if err := r.data(id, true, request); err != nil {
					return err
				}
			}
			t.sleep(5 * time.Second)
			return nil
		})
	})
	add(fairness, "large good requests by one caller", func(t target) error {
		return t.repeat(16, t.Token, "StartWorkflowExecution", marshal(startOf("big", []byte(`"`+filler(1_900_000)+`"`))))
	})

	add(combined, "headers, lengths, elements and caches", func(t target) error { return together(t, beforeAuth, elements, caches) })
	add(combined, "second APIs, work and shares", func(t target) error { return together(t, second, linear, fairness) })
}

// bodies sends bodies of 8 MB to the codec server, a hundred at once.
func bodies(t target, token string) error {
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			for !t.over() {
				t.post("/encode", token, strings.NewReader(filler(8_000_000)))
			}
		})
	}
	wg.Wait()
	return nil
}

// together runs every fourth shape of these classes at once.
func together(t target, classes ...string) error {
	var wg sync.WaitGroup
	for _, class := range classes {
		n := 0
		for _, s := range shapes {
			if s.class != class {
				continue
			}
			if n++; n%4 == 1 {
				wg.Go(func() { _ = s.run(t) })
			}
		}
	}
	wg.Wait()
	return nil
}
