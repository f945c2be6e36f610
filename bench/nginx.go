package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"text/template"
	"time"
)

var nginxConfig = template.Must(template.New("").Parse(`daemon off;
worker_processes auto;
pid {{.Dir}}/nginx.pid;
error_log stderr error;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path {{.Dir}}/body;
  proxy_temp_path {{.Dir}}/proxy; fastcgi_temp_path {{.Dir}}/fastcgi; uwsgi_temp_path {{.Dir}}/uwsgi; scgi_temp_path {{.Dir}}/scgi;
  client_max_body_size 0;
  client_body_buffer_size 1m;
  keepalive_requests 1000000000;
  http2_max_concurrent_streams 1024;
  upstream frontend { server {{.Upstream}}; keepalive 256; keepalive_requests 1000000000; }
  server {
    listen {{.Address}} http2;
    location / { grpc_pass grpc://frontend; grpc_read_timeout 1h; grpc_buffer_size 256k; }
  }
}
`))

// startNginx starts nginx with grpc_pass to the upstream; dir is for its files.
func startNginx(ctx context.Context, dir, upstream string) (*process, string, error) {
	path, err := exec.LookPath("nginx")
	if err != nil {
		return nil, "", err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // nginx can not report a port that the system chose, so it gets one that was free
	if err != nil {
		return nil, "", err
	}
	address := l.Addr().String()
	_ = l.Close()
	config := filepath.Join(dir, "nginx.conf")
	file, err := os.Create(config)
	if err != nil {
		return nil, "", err
	}
	err = nginxConfig.Execute(file, map[string]string{"Dir": dir, "Upstream": upstream, "Address": address})
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, "", err
	}
	cmd := exec.Command(path, "-c", config, "-p", dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, "", err
	}
	p := &process{cmd: cmd}
	for range 100 {
		if c, err := net.Dial("tcp", address); err == nil {
			return p, address, c.Close()
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			p.end()
			return nil, "", ctx.Err()
		}
	}
	p.end()
	return nil, "", errors.New("nginx does not listen after 5 s")
}
