package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
)

// File is a sink that appends to a file, or writes to standard output.
type File struct {
	path string
	file *os.File
	std  bool // a stream of this process: never reopened, never closed
	// torn means that the file ends within a line, which a full disk or a broken pipe has cut.
	torn bool
	text []byte
}

// Stdout is the path that stands for standard output.
const Stdout = "/dev/stdout"

// OpenFile opens the file. It creates a missing one, which only its owner may read.
func OpenFile(path string, log *slog.Logger) (*File, error) {
	f := &File{path: path}
	switch path {
	case Stdout:
		f.file, f.std = os.Stdout, true
		return f, nil
	case "/dev/stderr":
		f.file, f.std = os.Stderr, true
		return f, nil
	}
	// The check comes before the file is opened: to open a named pipe waits for its reader.
	switch info, err := os.Stat(path); {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case err == nil && !info.Mode().IsRegular() && info.Mode()&fs.ModeCharDevice == 0:
		return nil, fmt.Errorf("%s is neither a file nor %s", path, Stdout)
	case err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0:
		log.Warn("the audit file is readable for others; run chmod 600 on it", "file", path, "mode", info.Mode().Perm().String())
	}
	return f, f.open()
}

// open opens the path for appending. Its owner alone may read a file that it makes.
func (f *File) open() error {
	file, err := os.OpenFile(f.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	f.file, f.torn = file, false
	return nil
}

// Write appends the lines with one system call.
func (f *File) Write(_ context.Context, lines [][]byte) (int, error) {
	if err := f.follow(); err != nil {
		return 0, err
	}
	f.text = f.text[:0]
	if f.torn {
		f.text = append(f.text, '\n')
	}
	mended := len(f.text)
	for _, l := range lines {
		f.text = append(f.text, l...)
	}
	n, err := f.file.Write(f.text)
	if err == nil {
		f.torn = false
		return len(lines), nil
	}
	kept, end := 0, mended
	for kept < len(lines) && end+len(lines[kept]) <= n {
		end += len(lines[kept])
		kept++
	}
	f.mend(n, end)
	return kept, err
}

// follow reopens the path if the open file was renamed or removed, as logrotate does.
func (f *File) follow() error {
	if f.std {
		return nil
	}
	if f.file != nil {
		open, err := f.file.Stat()
		if err != nil {
			return err
		}
		now, err := os.Stat(f.path)
		if err == nil && os.SameFile(open, now) {
			return nil
		}
		_ = f.file.Close() // everything was written
		f.file = nil
	}
	return f.open()
}

// mend removes the part of a line that did not fit, so that the file holds whole lines only. n bytes were
// written, of which end belong to whole lines.
func (f *File) mend(n, end int) {
	if n <= end {
		f.torn = f.torn && n == 0
		return
	}
	f.torn = true
	info, err := f.file.Stat()
	if err == nil && info.Mode().IsRegular() && f.file.Truncate(info.Size()-int64(n-end)) == nil {
		f.torn = false
	}
}

// Close closes the file.
func (f *File) Close() error {
	if f.std || f.file == nil {
		return nil
	}
	return f.file.Close()
}
