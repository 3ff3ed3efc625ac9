package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/likeness-id/likeness/pkg/client"
	"github.com/likeness-id/likeness/pkg/face"
)

type importCmd struct {
	serverFlags
	Gallery  string `arg:"" help:"Gallery to import into, which must be there."`
	File     string `arg:"" type:"existingfile" help:"File that export wrote, or of the same form."`
	FromLine int64  `placeholder:"N" xor:"from" help:"First line to import (default: 1)."`
	Resume   bool   `xor:"from" help:"Go on where the last import of the file stopped, as FILE.progress tells."`
}

// Help is what --help says beside the flags.
func (importCmd) Help() string {
	return "A line is taken whole or refused whole. Each refused one gets a line on stdout: its number, subject, the code of the error, and the reason; the exit code is 1 then, and where a line failed. " +
		"A subject who is there keeps what is known of them and gets the templates that they lack, so importing again does no harm. " +
		"A broken connection is made anew. One that was stopped leaves FILE.progress, and --resume goes on from there, if the file has not changed up to there. The key needs the scope enrol."
}

// Validate refuses what no server could be asked.
func (c importCmd) Validate() error {
	if !face.ValidID(c.Gallery) {
		return fmt.Errorf("%q is no name of a gallery: 1 to 128 letters, digits and ._@-", c.Gallery)
	}
	if c.FromLine < 0 {
		return errors.New("--from-line: must be 1 or more")
	}
	return c.serverFlags.Validate()
}

// saveEvery is how often an import notes how far it is.
const saveEvery = time.Second

// imported is how far an import is, as FILE.progress keeps it.
type imported struct {
	Server  string  `json:"server"`
	Gallery string  `json:"gallery"`
	Size    int64   `json:"size"`   // of the file, which is another one when it changes
	Line    int64   `json:"line"`   // the last one that the server has answered for
	Prefix  string  `json:"prefix"` // SHA-256 of the file up to the end of that line
	Refused []int64 `json:"refused"`
	Failed  []int64 `json:"failed"` // that others after them did not
}

func (c importCmd) Run(t *tool) (err error) {
	file, err := os.Open(c.File)
	if err != nil {
		return usageError{err}
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	api, err := c.connect(t, 1)
	if err != nil {
		return err
	}
	defer api.CloseIdleConnections()
	lines, _, err := walkLines(file, -1)
	if err != nil {
		return err
	}
	i := &importing{importCmd: c, api: api, tool: t, file: file, counts: map[string]int64{}, at: imported{
		Server: c.Server, Gallery: c.Gallery, Size: info.Size(),
	}}
	i.prefix.in = bufio.NewReaderSize(io.NewSectionReader(file, 0, info.Size()), 1<<20)
	i.prefix.sum = sha256.New()
	if err := i.resume(); err != nil {
		return err
	}
	done := false
	defer func() { err = errors.Join(err, i.save(done)) }()

	i.bar = newProgress(t.stderr, "importing lines", lines, false)
	defer i.bar.Close()
	i.bar.Set(i.at.Line)
	if err := i.run(); err != nil {
		return err
	}
	done = true
	i.bar.Set(lines)
	i.bar.Close()
	return i.summary()
}

// importing is one run of the command.
type importing struct {
	importCmd
	api       *client.Client
	tool      *tool
	file      *os.File
	bar       *progress
	at        imported
	prefix    prefix
	saved     time.Time
	counts    map[string]int64 // lines of this run by status
	templates int64
	others    int64 // templates that no search of the gallery finds, as far as the summaries tell
}

func (i *importing) progressFile() string { return i.File + ".progress" }

// resume finds out where to begin. It never passes over lines unasked: they may
// be others by now, or the store another one, and to begin anew does no harm.
func (i *importing) resume() error {
	if i.FromLine > 0 {
		i.at.Line = i.FromLine - 1
		return nil
	}
	b, err := os.ReadFile(i.progressFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var was imported
	if err == nil {
		err = json.Unmarshal(b, &was)
	}
	switch {
	case !i.Resume && err == nil:
		fmt.Fprintf(i.tool.stderr, "beginning anew; an import of the file into gallery %s of %s stopped after line %d, and --resume would go on from there\n",
			was.Gallery, was.Server, was.Line)
		return nil
	case !i.Resume:
		return nil
	case err != nil:
		return fmt.Errorf("%s cannot be read; import without --resume: %w", i.progressFile(), err)
	case was.Server != i.Server || was.Gallery != i.Gallery:
		return fmt.Errorf("%s is of an import into gallery %s of %s, not into gallery %s of %s; import without --resume",
			i.progressFile(), was.Gallery, was.Server, i.Gallery, i.Server)
	}
	sum, err := i.prefix.to(was.Line)
	if err != nil {
		return err
	}
	if was.Size != i.at.Size || was.Line < 0 || was.Prefix != sum {
		return fmt.Errorf("%s has changed since its import stopped after line %d; import without --resume", i.File, was.Line)
	}
	i.at = was
	fmt.Fprintf(i.tool.stderr, "going on after line %d, where the last import of the file stopped\n", was.Line)
	return nil
}

// prefix is the beginning of a file as far as it was read.
type prefix struct {
	in    *bufio.Reader
	sum   hash.Hash
	lines int64
}

// to reads on to the end of a line and returns the SHA-256 of all up to there.
func (p *prefix) to(line int64) (string, error) {
	for p.lines < line {
		part, err := p.in.ReadSlice('\n')
		p.sum.Write(part) // a hash takes everything
		switch {
		case err == nil:
			p.lines++
		case errors.Is(err, io.EOF):
			p.lines = line // its last one has no end, or there are no more
		case !errors.Is(err, bufio.ErrBufferFull):
			return "", err
		}
	}
	return hex.EncodeToString(p.sum.Sum(nil)), nil
}

// save notes how far the import is, so that whatever ends it, the next one
// goes on from there. Once all is done there is nothing to note.
func (i *importing) save(done bool) error {
	if done {
		if err := os.Remove(i.progressFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	if i.at.Line == 0 {
		return nil // what another one has left is worth more
	}
	var err error
	if i.at.Prefix, err = i.prefix.to(i.at.Line); err != nil {
		return err
	}
	b, err := json.Marshal(i.at)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(i.File), filepath.Base(i.File)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), i.progressFile())
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	i.saved = time.Now()
	return nil
}

// run imports until the end of the file.
func (i *importing) run() error {
	var p patience
	for {
		before := i.at.Line
		err := i.part()
		if err == nil {
			return nil
		}
		if i.at.Line > before {
			p.progressed()
		}
		if err := p.bear(i.tool.ctx, i.tool, err); err != nil {
			return i.advise(err)
		}
	}
}

// part imports from the line after the last until the end, or until something
// breaks.
func (i *importing) part() error {
	begin := i.at.Line // the server counts from here
	_, offset, err := walkLines(i.file, begin)
	if err != nil {
		return permanent{err}
	}
	// A reader of its own: that of the attempt before may still be read.
	rest := io.NewSectionReader(i.file, offset, i.at.Size-offset)
	in, err := i.api.ImportSubjects(i.tool.ctx, i.Gallery, rest, client.ImportOptions{})
	if err != nil {
		return err
	}
	defer in.Close()
	var failed []int64 // not passed by yet: an import that ends early ends with them
	for r, err := range in.Results() {
		if err != nil {
			return err
		}
		switch r.Status {
		case client.BulkResultStatusFailed:
			failed = append(failed, begin+r.Line)
			continue
		case client.BulkResultStatusRefused:
			i.at.Refused = append(i.at.Refused, begin+r.Line)
			code, detail := faultOf(r.Error)
			i.bar.Print(i.tool.stdout, "%d\t%s\t%s\t%s", begin+r.Line, printable(deref(r.SubjectID)), code, printable(detail))
		}
		i.at.Failed, failed = append(i.at.Failed, failed...), nil
		i.counts[string(r.Status)]++
		i.templates += int64(r.Templates)
		i.at.Line = begin + r.Line
		i.bar.Set(i.at.Line)
		if time.Since(i.saved) > saveEvery {
			if err := i.save(false); err != nil {
				return permanent{err}
			}
		}
	}
	sum := in.Summary()
	i.others += sum.OtherModels
	if !sum.Done {
		code, detail := faultOf(sum.Error)
		return fmt.Errorf("the import ended early: %s: %s", code, detail)
	}
	i.at.Failed = append(i.at.Failed, failed...)
	return nil
}

// faultOf is the code of an error of a line, and its detail behind its pointer.
func faultOf(e *client.BulkError) (code client.ProblemCode, detail string) {
	if e == nil {
		return "", ""
	}
	return e.Code, strings.TrimPrefix(deref(e.Pointer)+": "+deref(e.Detail), ": ")
}

// deref is the text that p points at; empty where it is absent.
func deref(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}

// advise adds what to do to an error that ended the import.
func (i *importing) advise(err error) error {
	switch {
	case errors.Is(err, client.ProblemCodeUnauthenticated), errors.Is(err, client.ProblemCodeForbidden):
		return fmt.Errorf("%w\nput the secret of a key with the scope enrol into %s, or into a file for --key-file", err, keyEnv)
	case errors.Is(err, client.ProblemCodeNotFound):
		return fmt.Errorf("%w: %s; POST /galleries makes galleries, GET lists them", err, i.Gallery)
	}
	return err
}

// summary prints what became of all, and is an error when some were refused.
func (i *importing) summary() error {
	fmt.Fprintf(i.tool.stderr, "gallery %s of %s: %d subjects created, %d updated, %d unchanged; %d templates added\n",
		i.Gallery, i.Server, i.counts["created"], i.counts["updated"], i.counts["unchanged"], i.templates)
	if i.others > 0 {
		fmt.Fprintf(i.tool.stderr, "at least %d templates are of other models than the gallery is searched with, and no search finds them; "+
			"`likeness models list` shows the models, `likeness models migrate` moves a gallery to another one\n", i.others)
	}
	var err error
	if n := len(i.at.Refused); n > 0 {
		err = fmt.Errorf("%d lines were refused: %s", n, ranges(i.at.Refused))
	}
	if n := len(i.at.Failed); n > 0 {
		err = errors.Join(err, fmt.Errorf("%d lines failed, whose cause the log of the server has; import the file again: %s", n, ranges(i.at.Failed)))
	}
	return err
}

// ranges writes numbers that rise, neighbours as one: 3, 5-7.
func ranges(numbers []int64) string {
	var parts []string
	for i := 0; i < len(numbers); {
		j := i
		for j+1 < len(numbers) && numbers[j+1] == numbers[j]+1 {
			j++
		}
		part := strconv.FormatInt(numbers[i], 10)
		if j > i {
			part += "-" + strconv.FormatInt(numbers[j], 10)
		}
		parts, i = append(parts, part), j+1
	}
	return strings.Join(parts, ", ")
}

// walkLines goes behind the first most lines of a file, or, where most is less
// than 0, behind all, and returns how many that were and where they end. A last
// line without an end is one.
func walkLines(f *os.File, most int64) (n, offset int64, err error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, 0, err
	}
	in := bufio.NewReaderSize(f, 1<<20)
	for some := false; n != most; {
		part, err := in.ReadSlice('\n')
		offset += int64(len(part))
		switch {
		case err == nil:
			n, some = n+1, false
		case errors.Is(err, bufio.ErrBufferFull):
			some = true
		case errors.Is(err, io.EOF):
			if some || len(part) > 0 {
				n++
			}
			return n, offset, nil
		default:
			return n, offset, err
		}
	}
	return n, offset, nil
}
