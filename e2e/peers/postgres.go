package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// nobody is the user of PostgreSQL where this process is root's: it refuses to run as root.
const nobody = 65534

// Postgres is a PostgreSQL server of the programs that the system has. It listens on a socket in its folder alone, and trusts everybody
// who reaches it.
type Postgres struct {
	*Process
	dir string
}

// StartPostgres starts a server on the database in a folder, which it makes where there is none. The path of the folder has to be short,
// since a socket lies in it.
func StartPostgres(ctx context.Context, dir string) (*Postgres, error) {
	p := &Postgres{dir: dir}
	data := filepath.Join(dir, "data")
	if _, err := os.Stat(data); errors.Is(err, os.ErrNotExist) {
		if os.Getuid() == 0 {
			if err := os.Chown(dir, nobody, nobody); err != nil {
				return nil, fmt.Errorf("start PostgreSQL: %w", err)
			}
		}
		if out, err := asNobody(exec.CommandContext(ctx, postgresProgram("initdb"), "-D", data, "-U", "seal", "--auth=trust", "-N")).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("make a PostgreSQL database; is PostgreSQL installed?: %w: %s", err, out)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for { // what was killed still holds its memory for a moment, and a server that finds it ends
		var err error
		cmd := asNobody(exec.Command(postgresProgram("postgres"), "-D", data, "-k", dir, "-c", "listen_addresses="))
		if p.Process, err = Start("postgres", cmd, io.Discard); err != nil {
			return nil, err
		}
		if err = p.await(ctx, func(ctx context.Context) error {
			return exec.CommandContext(ctx, postgresProgram("psql"), "-X", "-h", dir, "-U", "seal", "-c", "SELECT 1", "postgres").Run()
		}); err == nil {
			return p, nil
		}
		p.Kill()
		if ctx.Err() != nil {
			return nil, err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// URL is that of the database "postgres".
func (p *Postgres) URL() string { return "postgres:///postgres?user=seal&host=" + p.dir }

// Execute executes statements, all of them or none.
func (p *Postgres) Execute(ctx context.Context, statements string) error {
	out, err := exec.CommandContext(ctx, postgresProgram("psql"), "-X", "-1", "-v", "ON_ERROR_STOP=1", "-h", p.dir, "-U", "seal", "-c", statements,
		"postgres").CombinedOutput()
	if err != nil {
		return fmt.Errorf("psql: %w: %s", err, out)
	}
	return nil
}

// postgresProgram returns the path of one of PostgreSQL's programs, which Debian installs outside of the PATH.
func postgresProgram(name string) string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	return append([]string{name}, found...)[len(found)]
}

func asNobody(cmd *exec.Cmd) *exec.Cmd {
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}
