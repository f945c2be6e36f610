package sdks

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// commands call each language's program in the product's folder. `make test-sdks` builds them.
var commands = map[string][]string{
	"go":         {"bin/sdks/go"},
	"typescript": {"node", "e2e/sdks/typescript/lib/main.js"},
	"python":     {"bin/sdks/python/bin/python", "e2e/sdks/python/main.py"},
	"java":       {"java", "-cp", "e2e/sdks/java/target/classes:e2e/sdks/java/target/lib/*", "sdks.Main"},
}

// startTime bounds a program's start: a worker of the TypeScript SDK has taken a minute on a busy machine.
const startTime = 3 * time.Minute

// endTime bounds its end, with its worker's.
const endTime = 30 * time.Second

// program is a worker and client in some language.
type program struct {
	*peers.Process
	language, queue string
	version         string // of the SDK, as the program prints it
	answers         chan answer
}

// answer is what a program prints for a scenario, or first of all that it is ready.
type answer struct {
	Ready    string
	Scenario string
	Lines    []string
	Error    string
}

func startProgram(language, address, namespace, queue string, log *harness.Log) (*program, error) {
	command, ok := commands[language]
	if !ok {
		return nil, fmt.Errorf("SDKS: there is no program in %s", language)
	}
	name := command[0]
	if strings.Contains(name, "/") {
		name = filepath.Join(harness.Root(), name)
	}
	cmd := exec.Command(name, append(slices.Clone(command[1:]), address, namespace, queue)...)
	cmd.Dir = harness.Root()
	stdout, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout = w
	p := &program{language: language, queue: queue, answers: make(chan answer)}
	p.Process, err = peers.Start(language, cmd, log)
	_ = w.Close() // the program has its own
	if err != nil {
		_ = stdout.Close()
		return nil, err
	}
	go func() {
		defer stdout.Close()
		defer close(p.answers)
		for in := json.NewDecoder(bufio.NewReader(stdout)); ; {
			var a answer
			if err := in.Decode(&a); err != nil {
				return // the program has ended, or printed what it should not: whoever waits learns that there is no answer
			}
			p.answers <- a
		}
	}()
	ready, err := p.await("", startTime)
	if err != nil {
		p.Kill()
		return nil, err
	}
	p.version = ready.Ready
	return p, nil
}

// do has the program run a scenario.
func (p *program) do(command string) ([]string, error) {
	if _, err := fmt.Fprintln(p.Input(), command); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", p.language, err, p.Output())
	}
	name, _, _ := strings.Cut(command, " ")
	a, err := p.await(name, scenarioTime)
	if err != nil {
		return nil, err
	}
	if a.Error != "" {
		return a.Lines, errors.New(a.Error)
	}
	return a.Lines, nil
}

// end lets the worker shut down, for which it has some calls to make, and returns how that went.
func (p *program) end() error {
	if err := p.Input().Close(); err != nil {
		return fmt.Errorf("%s: %w", p.language, err)
	}
	select {
	case <-p.Done():
		return p.Stop() // it has ended, and only its exit code is wanted
	case <-time.After(endTime):
		p.Kill()
		return fmt.Errorf("%s: the worker did not shut down within %s\n%s", p.language, endTime, p.Output())
	}
}

// await waits for the answer of a scenario. Answers of one that was given up before may come first.
func (p *program) await(scenario string, limit time.Duration) (answer, error) {
	for timeout := time.After(limit); ; {
		select {
		case a, ok := <-p.answers:
			if !ok {
				return a, fmt.Errorf("%s: no answer\n%s", p.language, p.Output())
			}
			if a.Scenario == scenario {
				return a, nil
			}
		case <-timeout:
			return answer{}, fmt.Errorf("%s: no answer within %s\n%s", p.language, limit, p.Output())
		}
	}
}
