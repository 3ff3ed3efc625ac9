package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/likeness-id/likeness/internal/photos"
	"github.com/likeness-id/likeness/pkg/client"
	"github.com/likeness-id/likeness/pkg/face"
)

// maxPhotoBytes keeps a stray film out of memory. The server's own limit is
// far lower, and it is the server that says so.
const maxPhotoBytes = 64 << 20

type enrolCmd struct {
	serverFlags
	Folder      string `arg:"" type:"path" help:"Folder, or tar, with one sub-folder per subject."`
	Gallery     string `default:"${gallery}" placeholder:"NAME" help:"Gallery to enrol in, which must be there (default: ${gallery})."`
	QualityGate string `default:"auto" enum:"auto,off" placeholder:"auto|off" help:"Whether photos of low quality are refused (default: auto)."`
	OnDuplicate string `default:"warn" enum:"warn,refuse" placeholder:"warn|refuse" help:"What to do with a face that is enrolled as somebody else (default: warn)."`
	Parallel    int    `default:"4" placeholder:"N" help:"Subjects enrolled at the same time (default: 4)."`
}

// Help is what --help says beside the flags.
func (enrolCmd) Help() string {
	return "A sub-folder's name becomes the subject's id and name; where it cannot be an id, the id is made from it. " +
		"Every photo gets a line on stdout: its outcome (enrolled, or the code of the error), its path, and the template's id or the reason. " +
		"Running it again enrols nobody twice. The key needs the scopes enrol and read."
}

// Validate refuses what no server could be asked.
func (c enrolCmd) Validate() error {
	if err := c.serverFlags.Validate(); err != nil {
		return err
	}
	if !face.ValidID(c.Gallery) {
		return fmt.Errorf("--gallery: %q is not 1 to 128 letters, digits and ._@-", c.Gallery)
	}
	if c.Parallel < 1 || c.Parallel > 256 {
		return errors.New("--parallel: must be 1 to 256")
	}
	return nil
}

func (c enrolCmd) Run(t *tool) error {
	set, err := photos.Open(c.Folder)
	if err != nil {
		return usageError{err}
	}
	defer set.Close()
	subjects, stray := groupBySubject(set.Names())
	total := len(stray)
	for _, s := range subjects {
		total += len(s.photos)
	}
	if len(subjects) == 0 {
		return usageError{fmt.Errorf("%s has no sub-folder with photos: one sub-folder per subject is expected", c.Folder)}
	}
	api, err := c.connect(t, c.Parallel)
	if err != nil {
		return err
	}
	defer api.CloseIdleConnections()

	e := &enrolment{
		enrolCmd: c, api: api, set: set, tool: t, failures: map[string]int{},
		bar: newProgress(t.stderr, "enrolling photos", int64(total), false),
	}
	for _, name := range stray {
		e.note(outcome{photo: name, code: face.Invalid.Code(), detail: "lies in no subject's folder"})
	}
	group, ctx := errgroup.WithContext(t.ctx)
	group.SetLimit(c.Parallel)
	for _, s := range subjects {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error { return e.subject(ctx, s) })
	}
	err = group.Wait()
	e.bar.Close()
	return errors.Join(err, t.ctx.Err(), e.summary(total, len(subjects)))
}

// folder is one subject with their photos.
type folder struct {
	id, name string
	photos   []string
}

// groupBySubject groups photos by the folder that they lie in. Hidden files are
// passed over; photos that lie in no folder are stray.
func groupBySubject(names []string) (subjects []folder, stray []string) {
	at := map[string]int{}
	for _, name := range names {
		dir, file := path.Split(name)
		if strings.HasPrefix(file, ".") {
			continue
		}
		if dir == "" {
			stray = append(stray, name)
			continue
		}
		dir = path.Clean(dir)
		i, ok := at[dir]
		if !ok {
			i = len(subjects)
			at[dir] = i
			person := path.Base(dir)
			subjects = append(subjects, folder{id: subjectID(person), name: person})
		}
		subjects[i].photos = append(subjects[i].photos, name)
	}
	return subjects, stray
}

// subjectID is the id for the name of a folder: the name itself where it can
// be one, else one derived from it, the same each time.
func subjectID(name string) string {
	if face.ValidID(name) {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return "s-" + hex.EncodeToString(sum[:16])
}

// enrolment is one run of the command.
type enrolment struct {
	enrolCmd
	api  *client.Client
	set  photos.Set
	tool *tool
	bar  *progress

	mu       sync.Mutex
	enrolled int
	failures map[string]int // by code
}

// outcome is what became of one photo.
type outcome struct {
	photo    string
	template string // empty when it was not enrolled
	code     string
	detail   string
}

// note prints and counts an outcome.
func (e *enrolment) note(o outcome) {
	result, what := "enrolled", o.template
	e.mu.Lock()
	if o.template == "" {
		result, what = o.code, o.detail
		e.failures[o.code]++
	} else {
		e.enrolled++
	}
	e.mu.Unlock()
	e.bar.Print(e.tool.stdout, "%s\t%s\t%s", result, printable(o.photo), printable(what))
	e.bar.Add(1)
}

// subject enrols one subject's photos, one after another. The error is one
// that every other subject would meet too.
func (e *enrolment) subject(ctx context.Context, s folder) error {
	name := s.name
	if r := []rune(name); len(r) > face.MaxNameLength {
		name = string(r[:face.MaxNameLength])
	}
	made, err := e.makeSubject(ctx, s.id, name)
	if err != nil {
		if stopsEnrolment(err) {
			return e.advise(err)
		}
		for _, photo := range s.photos {
			e.note(failedOutcome(photo, err))
		}
		return nil
	}
	for _, photo := range s.photos {
		o, err := e.photo(ctx, s.id, made, photo)
		if err != nil {
			return err
		}
		e.note(o)
	}
	return nil
}

// photo enrols one photo.
func (e *enrolment) photo(ctx context.Context, subject string, made time.Time, photo string) (outcome, error) {
	info, err := fs.Stat(e.set, photo)
	if err == nil && info.Size() > maxPhotoBytes {
		err = face.Errorf(face.TooLarge, "enrol", "the file has %d MB", info.Size()>>20)
	}
	var image []byte
	if err == nil {
		image, err = e.set.ReadFile(photo)
	}
	if err != nil {
		return failedOutcome(photo, err), nil
	}
	template, err := e.enrol(ctx, subject, made, image)
	if err != nil {
		if stopsEnrolment(err) {
			return outcome{}, err
		}
		return failedOutcome(photo, err), nil
	}
	return outcome{photo: photo, template: template}, nil
}

// makeSubject makes sure that a subject is there and returns when it was made:
// somebody of the same id who was erased and enrolled again is another subject.
func (e *enrolment) makeSubject(ctx context.Context, id, name string) (made time.Time, err error) {
	s, err := e.api.CreateSubject(ctx, e.Gallery, client.SubjectCreate{SubjectID: &id, Name: &name})
	if errors.Is(err, client.ProblemCodeConflict) {
		s, err = e.api.GetSubject(ctx, e.Gallery, id)
	}
	if err != nil {
		return time.Time{}, err
	}
	return s.CreatedAt, nil
}

// enrol adds a template of a photo to a subject, who was made at that time,
// and returns its id.
func (e *enrolment) enrol(ctx context.Context, subject string, made time.Time, image []byte) (template string, err error) {
	// The idempotency key is made of all that makes the request what it is, so
	// that asking again is the same request, today or in a year.
	sum := sha256.New()
	fmt.Fprintf(sum, "on_duplicate=%s\nquality_gate=%s\n", e.OnDuplicate, e.QualityGate)
	fmt.Fprintf(sum, "%s\n%s\n%d\n", e.Gallery, subject, made.UnixMicro())
	sum.Write(image)
	request := client.EnrolForm{
		Image:       client.PhotoBytes(image),
		QualityGate: new(client.QualityGate(e.QualityGate)), OnDuplicate: new(client.DuplicateRule(e.OnDuplicate)),
	}
	for {
		var replayed bool
		key := client.IdempotencyKey("enrol-" + hex.EncodeToString(sum.Sum(nil)))
		answer, err := e.api.EnrolTemplate(ctx, e.Gallery, subject, request, key, client.Replayed(&replayed))
		if err != nil {
			return "", err
		}
		if !replayed {
			return answer.TemplateID, nil
		}
		// An answer from before: the template may have been erased since.
		list, err := e.api.ListTemplates(ctx, e.Gallery, subject)
		if err != nil {
			return "", err
		}
		for _, t := range list.Items {
			if t.TemplateID == answer.TemplateID {
				return t.TemplateID, nil
			}
		}
		sum.Write([]byte(answer.TemplateID)) // makes it another request
	}
}

// failedOutcome is the outcome of a photo that met an error.
func failedOutcome(photo string, err error) outcome {
	if p, ok := errors.AsType[*client.Problem](err); ok {
		return outcome{photo: photo, code: string(p.Code), detail: explainProblem(p)}
	}
	if e, ok := errors.AsType[*face.Error](err); ok {
		return outcome{photo: photo, code: e.Kind.Code(), detail: e.Detail}
	}
	return outcome{photo: photo, code: face.Internal.Code(), detail: err.Error()}
}

// stopsEnrolment reports whether an error would meet every other photo too: no way to
// the server, a key that it does not take, a gallery that is not there.
func stopsEnrolment(err error) bool {
	p, ok := errors.AsType[*client.Problem](err)
	if !ok {
		return true
	}
	return slices.Contains([]client.ProblemCode{
		client.ProblemCodeUnauthenticated, client.ProblemCodeForbidden, client.ProblemCodeNotFound,
	}, p.Code)
}

// advise adds what to do to an error that a subject's creation met.
func (e *enrolment) advise(err error) error {
	switch {
	case errors.Is(err, client.ProblemCodeUnauthenticated), errors.Is(err, client.ProblemCodeForbidden):
		return fmt.Errorf("%w\nput the secret of a key with the scopes enrol and read into %s, or into a file for --key-file", err, keyEnv)
	case errors.Is(err, client.ProblemCodeNotFound):
		return fmt.Errorf("%w: %s; POST /galleries makes galleries, GET lists them", err, e.Gallery)
	}
	return err
}

// summary prints what became of all, and is an error when some failed.
func (e *enrolment) summary(total, subjects int) error {
	failed := 0
	for _, n := range e.failures {
		failed += n
	}
	fmt.Fprintf(e.tool.stderr, "%d of %d photos of %d subjects are enrolled in gallery %s of %s\n",
		e.enrolled, total, subjects, e.Gallery, e.Server)
	if failed > 0 {
		return fmt.Errorf("%d could not be enrolled: %s", failed, describeFailures(e.failures))
	}
	return nil
}
