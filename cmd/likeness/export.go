package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/likeness-id/likeness/pkg/client"
	"github.com/likeness-id/likeness/pkg/face"
)

type exportCmd struct {
	serverFlags
	Gallery string `arg:"" help:"Gallery to export."`
	Output  string `short:"o" type:"path" placeholder:"FILE" help:"File to write; it appears once it is whole. Without it, stdout."`
	Crops   bool   `help:"Export sealed crops, too; they are of use only with the server's sealing key, in a gallery of the same name."`
}

// Help is what --help says beside the flags.
func (exportCmd) Help() string {
	return "One line a subject, in JSON, with all templates, as `likeness import` reads them. They are personal data: keep the file as you would keep the photos. " +
		"A broken connection is made anew. An export that was stopped goes on from what FILE.part holds, if that is of the same gallery, server and key, as FILE.part.json tells; remove FILE.part to begin anew. " +
		"The gallery's settings are not in it. The key needs the scope admin."
}

// Validate refuses what no server could be asked.
func (c exportCmd) Validate() error {
	if !face.ValidID(c.Gallery) {
		return fmt.Errorf("%q is no name of a gallery: 1 to 128 letters, digits and ._@-", c.Gallery)
	}
	return c.serverFlags.Validate()
}

func (c exportCmd) Run(t *tool) (err error) {
	api, err := c.connect(t, 1)
	if err != nil {
		return err
	}
	defer api.CloseIdleConnections()
	gallery, err := api.GetGallery(t.ctx, c.Gallery)
	if err != nil {
		return err
	}
	subjects := int64(gallery.Subjects)
	e := &export{exportCmd: c, api: api, tool: t, out: t.stdout}
	if c.Output == "" {
		return e.run(subjects)
	}
	part, err := e.open()
	if err != nil {
		return err
	}
	err = e.run(subjects)
	if err == nil {
		err = part.Sync()
	}
	if err = errors.Join(err, part.Close()); err != nil {
		return err
	}
	if err := os.Rename(part.Name(), c.Output); err != nil {
		return err
	}
	return os.Remove(e.originFile())
}

// origin says what a FILE.part is an export of, since its lines do not.
type origin struct {
	Server  string `json:"server"`
	Gallery string `json:"gallery"`
	Crops   bool   `json:"crops"`
	Key     string `json:"key"` // how the SHA-256 of the API key begins: another key may be another tenant's
}

func (o origin) String() string {
	crops, key := "without crops", "no key"
	if o.Crops {
		crops = "with crops"
	}
	if o.Key != "" {
		key = "the key whose SHA-256 begins with " + o.Key
	}
	return fmt.Sprintf("gallery %s of %s, %s, by %s", o.Gallery, o.Server, crops, key)
}

func (e *export) origin() origin {
	o := origin{Server: e.Server, Gallery: e.Gallery, Crops: e.Crops}
	if key, err := e.key(); err == nil && key != "" {
		sum := sha256.Sum256([]byte(key))
		o.Key = hex.EncodeToString(sum[:4])
	}
	return o
}

func (e *export) partFile() string   { return e.Output + ".part" }
func (e *export) originFile() string { return e.Output + ".part.json" }

// checkOrigin makes sure that what is there already is of the same export.
func (e *export) checkOrigin() error {
	own := e.origin()
	if _, err := os.Lstat(e.partFile()); errors.Is(err, os.ErrNotExist) {
		b, err := json.Marshal(own)
		if err != nil {
			return err
		}
		return os.WriteFile(e.originFile(), b, 0o600)
	}
	was := "nobody knows what"
	b, err := os.ReadFile(e.originFile())
	if err == nil {
		var o origin
		if json.Unmarshal(b, &o) == nil {
			if o == own {
				return nil
			}
			was = o.String()
		}
	}
	return fmt.Errorf("%s is an export of %s; this one would be of %s: remove %s to begin anew", e.partFile(), was, own, e.partFile())
}

// export is one run of the command.
type export struct {
	exportCmd
	api   *client.Client
	tool  *tool
	out   io.Writer
	after string // the last subject that was written
	count int64  // of those written
}

// open opens the file that an export grows in, behind its last whole line.
func (e *export) open() (part *os.File, err error) {
	if err := e.checkOrigin(); err != nil {
		return nil, err
	}
	// 0600: what is in it is personal data.
	part, err = os.OpenFile(e.partFile(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			part.Close()
		}
	}()
	var whole int64
	in := bufio.NewReaderSize(part, 1<<20)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break // half a line, or nothing
		}
		if err != nil {
			return nil, err
		}
		if e.after, err = subjectOf(line); err != nil {
			return nil, fmt.Errorf("%s is no export; remove it to begin anew: %w", part.Name(), err)
		}
		whole += int64(len(line))
		e.count++
	}
	if err := part.Truncate(whole); err != nil {
		return nil, err
	}
	if _, err := part.Seek(whole, io.SeekStart); err != nil {
		return nil, err
	}
	if e.count > 0 {
		fmt.Fprintf(e.tool.stderr, "going on after %d subjects in %s\n", e.count, part.Name())
	}
	e.out = part
	return part, nil
}

// subjectOf is the subject that a line is of.
func subjectOf(line []byte) (string, error) {
	var s struct {
		ID string `json:"subject_id"`
	}
	if err := json.Unmarshal(line, &s); err != nil {
		return "", err
	}
	if !face.ValidID(s.ID) {
		return "", errors.New("a line has no subject_id")
	}
	return s.ID, nil
}

func (e *export) run(subjects int64) error {
	bar := newProgress(e.tool.stderr, "exporting subjects", subjects, false)
	defer bar.Close()
	bar.Set(min(e.count, subjects))
	var p patience
	for {
		before := e.count
		err := e.part(func() { bar.Set(min(e.count, subjects)) })
		if err == nil {
			break
		}
		if e.count > before {
			p.progressed()
		}
		if err := p.bear(e.tool.ctx, e.tool, err); err != nil {
			return err
		}
	}
	bar.Close()
	fmt.Fprintf(e.tool.stderr, "%d subjects of gallery %s of %s are exported\n", e.count, e.Gallery, e.Server)
	return nil
}

// part writes what comes until the end, or until something breaks.
func (e *export) part(progressed func()) error {
	for line, err := range e.api.ExportLines(e.tool.ctx, e.Gallery, client.ExportOptions{After: e.after, Crops: e.Crops}) {
		if err != nil {
			return err
		}
		id, err := subjectOf(line)
		if err != nil {
			return permanent{fmt.Errorf("what the server sends is no export: %w", err)}
		}
		if _, err := e.out.Write(line); err != nil {
			return permanent{err}
		}
		e.after = id
		e.count++
		progressed()
	}
	return nil
}
