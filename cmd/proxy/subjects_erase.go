package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keystore"
	"github.com/temporal-seal/temporal-seal/internal/scan"
)

// certificate is what erase, readmit and reapply-erasures print, and the record of it in the audit log. It does not hold the subject.
type certificate struct {
	Time      time.Time `json:"time"`
	Action    string    `json:"action"` // erase, readmit or reapply
	DryRun    bool      `json:"dry_run,omitempty"`
	Namespace string    `json:"namespace,omitempty"`
	By        string    `json:"by,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Erasures  []erasure `json:"erasures"`
	// Destroyed are the ids of the keys that were destroyed, as envelopes name them. Before are those that were destroyed earlier.
	Destroyed []string `json:"destroyed_keys"`
	Before    []string `json:"destroyed_before,omitempty"`
	// Confirmed are the replicas that have the erasure in force. Missing are those that have not said so, or why they were not asked.
	Confirmed []string `json:"confirmed_by"`
	Missing   []string `json:"not_confirmed_by"`
	InForce   float64  `json:"in_force_after_seconds,omitempty"`
	// Running is what runs in the namespace and holds payloads of the subject; Read counts what was read to find it, and NotRead says
	// what was not read, or not terminated. Running and Read are nil, and left out, if the Temporal server was not asked.
	Running []*scan.Holder `json:"running,omitzero"`
	Read    map[string]int `json:"running_read,omitzero"`
	NotRead []string       `json:"running_not_read,omitempty"`
	Remains []string       `json:"remains,omitempty"`
}

// erasure is an entry of the key store's list of erasures. reapply-erasures reads it.
type erasure struct {
	Seq        int64     `json:"seq"`
	Namespace  string    `json:"namespace"`
	Key        string    `json:"key"`
	Index      string    `json:"index"`
	Tag        string    `json:"tag"`
	Time       time.Time `json:"time,omitzero"`
	By         string    `json:"by,omitempty"`
	Reason     string    `json:"reason,omitempty"`
	Readmitted bool      `json:"readmitted,omitempty"`
}

func erasureOf(e crypto.Erasure) erasure {
	return erasure{e.Seq, e.Context.Namespace, e.Context.Key, e.Index.String(), hex.EncodeToString(e.Tag[:]), e.At, e.By, e.Reason, e.Readmitted}
}

// parse is erasureOf's inverse.
func (e erasure) parse() (out crypto.Erasure, err error) {
	index, err1 := hex.DecodeString(e.Index)
	tag, err2 := hex.DecodeString(e.Tag)
	if err1 != nil || err2 != nil || len(index) != len(out.Index) || len(tag) != len(out.Tag) || e.Seq < 1 || e.Time.IsZero() {
		return out, fmt.Errorf("the erasure %d is broken", e.Seq)
	}
	return crypto.Erasure{Seq: e.Seq, Context: crypto.KeyContext{Namespace: e.Namespace, Key: e.Key}, Index: crypto.KeyID(index),
		Tag: crypto.SubjectTag(tag), At: e.Time, By: e.By, Reason: e.Reason, Readmitted: e.Readmitted}, nil
}

// remains returns what an erasure does not reach.
func (o *subjectOptions) remains() (list []string) {
	const reopens = "with them and the key service it opens again: keep backups of the keys of subjects for a shorter time than others"
	switch scheme, _, _ := strings.Cut(o.config.KeyStore.URL, ":"); scheme {
	case keystore.SchemeDynamoDB:
		list = []string{"point-in-time recovery, backups, exports and streams of the table from before the erasure hold the wrapped key until they end; " + reopens}
	case keystore.SchemePostgres:
		list = []string{"backups, write-ahead log archives and standbys of the key store from before the erasure hold the wrapped key until they end; " + reopens,
			"the data files of PostgreSQL hold the wrapped key until VACUUM FULL rewrites temporal_seal_subject_keys, and its write-ahead log until the segment is reused"}
	default:
		list = []string{"backups of the key store and snapshots of its disk from before the erasure hold the wrapped key until they end; " + reopens}
	}
	if o.key != "" {
		list = append(list, "other key names of the namespace were not erased, since --key named one; what they sealed for the subject opens as before")
	}
	return append(list,
		"key names under which the namespace had no subjects yet are not barred",
		"what was sealed before the policy named subjects, and payloads that the policy sealed with the key of no subject, open as before",
		"what the Temporal server has in clear is not touched: values from before they were sealed, what the policy passes, and members beside sealed ones",
		"copies that workers, logs or other systems made of the clear text are not touched",
		"workers that have a workflow in memory go on with what they know until they evict it; a workflow that then needs an erased value "+
			"makes no progress until it is terminated")
}

// eraseCommand destroys the keys of one subject.
func eraseCommand() *cobra.Command {
	var o subjectOptions
	var dryRun, yes, unknown bool
	var wait time.Duration
	var work runningWork
	cmd := &cobra.Command{
		Use:   "erase",
		Short: "Destroy the keys of one subject: what they sealed opens nowhere any more",
		Long: `erase destroys all keys of a subject in one transaction of the key store, waits until every replica that runs has confirmed it, and prints
a certificate as JSON, which is appended to the file of the audit log as well, if the config names one. What was sealed for the subject
opens nowhere any more, in no copy of the Temporal database, and nothing more is sealed for it until readmit. The exit code is 1 if a
replica has not confirmed; such a replica stops using keys of subjects by itself after erasure_max_lag.

--dry-run also lists what runs in the namespace and holds payloads of the subject: workflows (with their cron schedule, retry policy and
activities that are tried again), schedules, standalone activities and Nexus operations. --terminate terminates such workflows once the
erasure is in force. Both read every running workflow of the namespace from the Temporal server, past the proxy. The exit code is 4 if something
could not be read or terminated; the certificate says what.`,
		Example: `  temporal-seal subjects erase --config config.yaml --namespace clinic --subject-file subject.txt --reason 'request 4711' --dry-run
  temporal-seal subjects erase --config config.yaml --namespace clinic --subject-file subject.txt --reason 'request 4711' --terminate`,
		Args: noSubject,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := work.check(); err != nil {
				return err
			}
			return o.change(cmd, yes, change{
				check: func(found []keyring.Found) error { return o.announce(cmd, found, unknown) },
				preview: func(found []keyring.Found, c *certificate) {
					if !work.offline {
						work.find(cmd, &o, found, c)
					}
				},
				dryRun: dryRun,
				do: func(keys *keyring.Keyring, found []keyring.Found, c *certificate) error {
					err := o.erase(cmd, keys, found, wait, c)
					if !work.terminate || len(c.Erasures) == 0 {
						return err
					}
					found, again := o.find(cmd, keys, o.text) // a key may have been made between the first look and the erasure
					if again != nil {
						return errors.Join(err, again)
					}
					return errors.Join(err, work.end(cmd.Context(), &o, work.find(cmd, &o, found, c), c))
				},
			})
		},
	}
	onlyJSON{}.flag(cmd)
	o.addFlags(cmd)
	o.addReason(cmd)
	work.addFlags(&o, cmd)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be destroyed and what runs with it, and change nothing")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&unknown, "unknown", false, "bar a subject for whom nothing was sealed")
	cmd.Flags().DurationVar(&wait, "wait", time.Minute, "how long to wait for replicas to confirm")
	return cmd
}

// announce says how many keys are going to be destroyed. It is an error if nothing was ever sealed for the subject, unless that is known:
// a text with another case or a space at its end is another subject.
func (o *subjectOptions) announce(cmd *cobra.Command, found []keyring.Found, unknown bool) error {
	keys, rows := 0, 0
	for _, f := range found {
		rows += len(f.Rows)
		for _, r := range f.Rows {
			if r.Wrapped != nil {
				keys++
			}
		}
	}
	if rows == 0 && !unknown {
		return fmt.Errorf("nothing was sealed for this subject in the namespace %q under %s: check the file for spaces and letter case, and the namespace; "+
			"to bar the subject all the same, give --unknown", o.namespace, keyOrAny(o.key))
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s of the subject to destroy\n", count(keys, "key"))
	return nil
}

// erase erases, and waits for the replicas. The audit log has the erasure before it waits, so that none is lost if the command is ended.
func (o *subjectOptions) erase(cmd *cobra.Command, keys *keyring.Keyring, found []keyring.Found, wait time.Duration, c *certificate) error {
	began := time.Now()
	for _, f := range found {
		for _, r := range f.Rows {
			if r.Wrapped == nil && r.ID != (crypto.KeyID{}) {
				c.Before = append(c.Before, r.ID.String())
			}
		}
	}
	done, err := keys.Subjects().Erase(cmd.Context(), found, c.By, c.Reason)
	if len(done) == 0 {
		return err
	}
	last := int64(0)
	for _, e := range done {
		c.Erasures, last = append(c.Erasures, erasureOf(e)), max(last, e.Seq)
		for _, id := range e.Destroyed {
			c.Destroyed = append(c.Destroyed, id.String())
		}
	}
	if err != nil {
		c.Remains = append([]string{"the erasure is in force, and a step of it failed: destroyed_keys names the keys that are destroyed; the others are there " +
			"until erase is run again, as `subjects show` says"}, c.Remains...)
	}
	if failed := c.journal(o.config); failed != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), failed) // it is tried again with the replicas
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), wait)
	defer cancel()
	replicas, missing, failed := keys.Subjects().Wait(ctx, last)
	return errors.Join(err, c.confirm(replicas, missing, failed, time.Since(began)))
}

// notAsked is why a certificate has no replicas.
func notAsked(why string) string { return "replicas were not asked: " + why }

// confirm writes into the certificate what Wait returned.
func (c *certificate) confirm(replicas, missing []crypto.ReplicaRow, err error, after time.Duration) error {
	c.Missing = []string{}
	for _, r := range replicas {
		if !slices.Contains(missing, r) {
			c.Confirmed = append(c.Confirmed, r.ID)
		}
	}
	for _, r := range missing {
		c.Missing = append(c.Missing, fmt.Sprintf("%s, silent for %s; it stops by itself after %s", r.ID, r.Silent.Round(time.Second), r.MaxLag))
	}
	switch {
	case err != nil:
		c.Missing = append(c.Missing, notAsked(err.Error()))
		return fmt.Errorf("replicas could not be asked whether they confirm; the erasure itself is done: %w", err)
	case len(missing) > 0:
		return fmt.Errorf("%s not confirmed; the erasure itself is done", count(len(missing), "replica"))
	}
	c.InForce = after.Round(time.Millisecond).Seconds()
	return nil
}

// readmitCommand lets a subject that was erased be sealed for again.
func readmitCommand() *cobra.Command {
	var o subjectOptions
	var yes bool
	cmd := &cobra.Command{
		Use:     "readmit",
		Short:   "Let a subject that was erased be sealed for again",
		Long:    `readmit opens a new generation of keys for a subject that was erased and has come back. What was sealed before stays erased.`,
		Example: `  temporal-seal subjects readmit --config config.yaml --namespace clinic --subject-file subject.txt --reason 'request 4712'`,
		Args:    noSubject,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.change(cmd, yes, change{do: func(keys *keyring.Keyring, found []keyring.Found, c *certificate) error {
				c.Action, c.Remains, c.Missing = "readmit", nil, []string{notAsked("a readmission waits for none")}
				done, err := keys.Subjects().Readmit(cmd.Context(), found, c.By, c.Reason)
				for _, e := range done {
					c.Erasures = append(c.Erasures, erasureOf(e))
				}
				if err == nil && len(done) == 0 {
					err = errors.New("the subject is not erased, so nothing was changed")
				}
				return err
			}})
		},
	}
	onlyJSON{}.flag(cmd)
	o.addFlags(cmd)
	o.addReason(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// change is what a command does to a subject.
type change struct {
	check   func([]keyring.Found) error         // whether it may be done; nil: it may
	dryRun  bool                                // only a preview is made
	preview func([]keyring.Found, *certificate) // adds to the certificate of a dry run
	do      func(*keyring.Keyring, []keyring.Found, *certificate) error
}

// change finds the subject, checks it, asks, has it changed, and prints and records the certificate.
func (o *subjectOptions) change(cmd *cobra.Command, yes bool, what change) error {
	if o.file == "-" && !yes && !what.dryRun {
		return errors.New("standard input has the subject, so it cannot have the answer too: give --yes")
	}
	subject, err := o.subject(cmd)
	if err != nil {
		return err
	}
	o.text = subject
	if err := keyring.CheckReason(o.reason, subject); err != nil {
		return fmt.Errorf("--reason: %w", err)
	}
	if err := keyring.CheckReason(o.by, subject); o.by != "" && err != nil {
		return errors.New("--by contains the subject, and would keep it; name who asks for it otherwise")
	}
	if o.hidden(o.query) != o.query {
		return errors.New("--query contains the subject, and the Temporal server may log it; narrow the workflows otherwise, or leave it out")
	}
	keys, err := o.open(cmd)
	if err != nil {
		return err
	}
	defer keys.Close()
	found, err := o.find(cmd, keys, subject)
	if err != nil {
		return err
	}
	if what.check != nil {
		if err := what.check(found); err != nil {
			return err
		}
	}
	c := &certificate{Time: time.Now().UTC(), Action: "erase", DryRun: what.dryRun, Namespace: o.namespace, By: o.by, Reason: o.reason,
		Erasures: []erasure{}, Destroyed: []string{}, Confirmed: []string{},
		Missing: []string{notAsked("not yet")}, Remains: o.remains()}
	if what.dryRun {
		c.Missing = []string{notAsked("a dry run changes nothing")}
		for _, f := range found {
			c.Erasures = append(c.Erasures, erasureOf(f.Erasure))
			for _, r := range f.Rows {
				if r.Wrapped != nil {
					c.Destroyed = append(c.Destroyed, r.ID.String())
				}
			}
		}
		what.preview(found, c)
		o.withoutSubject(c)
		return cmp.Or(writeJSON(cmd.OutOrStdout(), c), c.verdict())
	}
	if err := confirm(cmd.Context(), cmd, yes, "yes"); err != nil {
		return err
	}
	err = what.do(keys, found, c)
	o.withoutSubject(c)
	if len(c.Erasures) > 0 {
		err = errors.Join(err, writeJSON(cmd.OutOrStdout(), c), c.journal(o.config))
	}
	return cmp.Or(err, c.verdict())
}

// verdict returns the exit code for what could not be read or terminated.
func (c *certificate) verdict() error {
	if len(c.NotRead) > 0 {
		return notAllWasRead
	}
	return nil
}

// journal appends the certificate to the file of the audit log, if there is one.
func (c *certificate) journal(of *config.Config) error {
	if of.Audit == nil || of.Audit.File == "" {
		return nil
	}
	line, err := json.Marshal(c)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(of.Audit.File, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("the certificate could not be appended to the audit log, keep the one printed: %w", err)
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}

// reapplied is what reapply-erasures prints in JSON.
type reapplied struct {
	Erasures  int      `json:"erasures"` // in the file
	Entered   int      `json:"entered"`
	Destroyed []string `json:"destroyed_keys"`
	// Missing are the numbers of erasures that the key store still lacks.
	Missing []int64 `json:"missing"`
}

// reapplyCommand enters erasures again.
func reapplyCommand() *cobra.Command {
	var o subjectOptions
	var acceptLost string
	cmd := &cobra.Command{
		Use:   "reapply-erasures FILE",
		Short: "Enter the erasures that a restored key store lacks",
		Long: `reapply-erasures reads certificates of erase and readmit, from files of their own or as lines of the audit log, and enters what the key
store lacks, since it was restored from a backup that is older. Replicas that know of an erasure which the key store lacks stop using
keys of subjects; they go on once it is entered again. Keys of erased subjects that came back with a part of the store are destroyed. The
numbers of erasures that are in no certificate are printed, and then the exit code is 1: find their certificates, or give up with
--accept-lost. Other lines of the audit log are left out.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			journal, err := readJournal(args[0])
			if err != nil {
				return err
			}
			keys, err := o.open(cmd)
			if err != nil {
				return err
			}
			defer keys.Close()
			done, err := keys.Subjects().Reapply(cmd.Context(), journal, acceptLost)
			result := reapplied{len(journal), len(done.Entered), []string{}, listed(done.Missing)}
			for _, id := range done.Destroyed {
				result.Destroyed = append(result.Destroyed, id.String())
			}
			printed := o.output.printed(cmd, result, "%s in the file, %d entered again, %s destroyed",
				count(len(journal), "erasure"), len(done.Entered), count(len(done.Destroyed), "key"))
			if err = cmp.Or(err, printed); err != nil {
				return o.explained(err)
			}
			if len(done.Missing) > 0 {
				return fmt.Errorf("the key store still lacks the erasures %v, and keys of subjects stay out of use: find their certificates", done.Missing)
			}
			return nil
		},
	}
	o.output.flag(cmd)
	o.addConfig(cmd)
	cmd.Flags().StringVar(&acceptLost, "accept-lost", "", "why erasures without a certificate are given up, whose subjects are erased no more; it is kept")
	return cmd
}

// readJournal reads the erasures in certificates.
func readJournal(file string) (journal []crypto.Erasure, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	known := make(map[erasure]bool) // a certificate is in the audit log twice
	for documents := json.NewDecoder(f); ; {
		var c certificate
		err := documents.Decode(&c)
		if errors.Is(err, io.EOF) {
			return journal, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: behind %s: %w", file, count(len(journal), "erasure"), err)
		}
		if c.DryRun {
			continue
		}
		for _, e := range c.Erasures {
			parsed, err := e.parse()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			if known[e] {
				continue
			}
			known[e] = true
			journal = append(journal, parsed)
		}
	}
}
