package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
)

// secure_delete overwrites a row where it lies. It does not overwrite the
// copies that SQLite makes: when it balances a tree it moves rows to the
// neighbouring page, and what they were stays in the space between the page's
// cell pointers and its first cell until something else is put there. Such a
// copy would outlive its row, so no page goes from the log into the file
// before that space is zero.
// https://www.sqlite.org/fileformat2.html says what a page and the log are.

// scrubber knows how much of the log it has seen.
type scrubber struct {
	salts  [8]byte // of the log: another one has others
	frames int
}

// scrub zeroes the unused space of the pages that are in the log.
func (s *scrubber) scrub(ctx context.Context, conn *sql.Conn, wal string) (err error) {
	pages, err := s.logged(wal)
	if err != nil || len(pages) == 0 {
		return err
	}
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_, _ = conn.ExecContext(ctx, "ROLLBACK") // a full disk has done so already
		}
	}()
	read, err := conn.PrepareContext(ctx, "SELECT data FROM sqlite_dbpage WHERE pgno = ?")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, read.Close()) }()
	write, err := conn.PrepareContext(ctx, "UPDATE sqlite_dbpage SET data = ? WHERE pgno = ?")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, write.Close()) }()
	for _, n := range pages {
		var page []byte
		if err := read.QueryRowContext(ctx, n).Scan(&page); errors.Is(err, sql.ErrNoRows) {
			continue // the file has become shorter since
		} else if err != nil {
			return err
		}
		if scrubPage(page) {
			if _, err := write.ExecContext(ctx, page, n); err != nil {
				return err
			}
		}
	}
	_, err = conn.ExecContext(ctx, "COMMIT")
	return err
}

// logged lists the pages that the log holds beyond the frames already seen,
// but the first page, which is the schema's.
func (s *scrubber) logged(wal string) ([]uint32, error) {
	f, err := os.Open(wal)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	// Closing a file drops a process' POSIX locks on it. SQLite has none on
	// the log.
	defer f.Close()
	var header [32]byte
	if _, err := io.ReadFull(f, header[:]); err != nil {
		return nil, nil // it is empty
	}
	if salts := [8]byte(header[16:24]); salts != s.salts {
		s.salts, s.frames = salts, 0
	}
	frame := 24 + int64(binary.BigEndian.Uint32(header[8:]))
	var pages []uint32
	for i := int64(s.frames); ; i++ {
		var head [24]byte
		if _, err := f.ReadAt(head[:], 32+i*frame); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("reading the log: %w", err)
		}
		if [8]byte(head[8:16]) != s.salts {
			break // of an earlier round
		}
		if n := binary.BigEndian.Uint32(head[:]); n > 1 {
			pages = append(pages, n)
		}
	}
	slices.Sort(pages)
	return slices.Compact(pages), nil
}

// scrubPage zeroes the unused space of a page of a tree, and reports whether
// anything was there. It leaves other pages alone: they begin with the number
// of another page, whose first byte is 0 below 2^24 pages, 256 GiB.
func scrubPage(page []byte) bool {
	if len(page) < 12 {
		return false
	}
	from := 8
	switch page[0] {
	case 0x02, 0x05: // within a tree
		from = 12
	case 0x0a, 0x0d: // leaves
	default:
		return false
	}
	from += 2 * int(binary.BigEndian.Uint16(page[3:]))
	to := int(binary.BigEndian.Uint16(page[5:]))
	if from > to || to > len(page) {
		return false
	}
	unused := page[from:to]
	if bytes.Count(unused, []byte{0}) == len(unused) {
		return false
	}
	clear(unused)
	return true
}
