package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/likeness-id/likeness/internal/photos"
	"github.com/likeness-id/likeness/pkg/app"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

type calibrateCmd struct {
	pipelineFlags
	Images []string `required:"" type:"path" placeholder:"TAR|DIR" help:"Photos to compare with one another; may be given more than once."`
	Write  string   `type:"path" placeholder:"FILE.json" help:"Put the calibration into this manifest of the encoder, which is made when it is not there, instead of printing it."`
}

// Help is what --help says beside the flags.
func (calibrateCmd) Help() string {
	return "Everybody is compared with everybody else, and a threshold is named for each false match rate that at least " +
		"30 false matches support. Two photos of one person must not be compared, so it must be known who is on them: " +
		"in a set whose photos lie in several folders, a folder is a person. A set whose photos lie in one folder tells nobody apart: " +
		"its photos are compared with those of the other sets only, which must show other people. A photo takes about 1 KB of memory. " +
		"A restart of the server takes a new calibration up; LIKENESS_MODELS_DIR may hold the manifest."
}

// portrait is one acquired photo.
type portrait struct {
	embedding face.Embedding
	set       int
	person    string // empty in a set that tells nobody apart
}

// impostors reports whether two portraits certainly show different people.
func impostors(a, b *portrait) bool {
	if a.set != b.set {
		return true
	}
	return a.person != "" && a.person != b.person
}

func (c calibrateCmd) Run(t *tool) (err error) {
	pipeline, err := c.open(t.ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pipeline.Close()) }()
	var portraits []portrait
	var described []string
	for i := range c.Images {
		more, description, err := c.portraits(t, pipeline, i)
		if err != nil {
			return err
		}
		portraits = append(portraits, more...)
		described = append(described, description)
	}
	counted, err := compareAll(t.ctx, t.stderr, portraits, c.workers())
	if err != nil {
		return err
	}
	cal, err := counted.Calibration(fmt.Sprintf(
		"likeness calibrate, %s, detector %s: every impostor comparison of %s",
		time.Now().UTC().Format(time.DateOnly), pipeline.Detector().ID, strings.Join(described, " and ")))
	if err != nil {
		return err
	}
	if c.Write == "" {
		return printCalibration(t.stdout, cal)
	}
	if err := writeManifest(c.Write, pipeline.Encoder(), cal); err != nil {
		return err
	}
	fmt.Fprintf(t.stderr, "%d impostor comparisons support", cal.Comparisons)
	for _, p := range cal.Points {
		fmt.Fprintf(t.stderr, " %s (%.5f)", p.Name, p.Threshold)
	}
	fmt.Fprintln(t.stderr, "\nwrote", c.Write)
	return nil
}

// portraits acquires the set of that index and says who is on its photos.
func (c calibrateCmd) portraits(t *tool, pipeline *app.Pipeline, index int) (out []portrait, description string, err error) {
	name := c.Images[index]
	set, err := photos.Open(name)
	if err != nil {
		return nil, "", usageError{fmt.Errorf("--images: %w", err)}
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	embedded, err := acquire(t.ctx, t.stderr, pipeline, c.pipelineFlags, set, set.Names())
	if err != nil {
		return nil, "", err
	}
	folders := map[string]bool{}
	for i, photo := range set.Names() {
		if embedded[i].failure == "" {
			folders[path.Dir(photo)] = true
			out = append(out, portrait{embedded[i].embedding, index, path.Dir(photo)})
		}
	}
	people := fmt.Sprintf("%d people", len(folders))
	if len(folders) < 2 {
		people = "unlabelled people, compared with the other sets only"
		for i := range out {
			out[i].person = ""
		}
	}
	description = fmt.Sprintf("%s (%d photos of %s)", filepath.Base(name), len(out), people)
	failures, failed := tally(embedded)
	fmt.Fprintf(t.stderr, "%s; failures to acquire: %d of %d %s\n", description, failed, len(embedded), listed(failures))
	return out, description, nil
}

// compareAll counts the scores of all impostor comparisons. It needs 1.6 MB a
// worker beside the embeddings.
func compareAll(ctx context.Context, stderr io.Writer, portraits []portrait, workers int) (*match.Impostors, error) {
	n := int64(len(portraits))
	bar := newProgress(stderr, "comparing", n*(n-1)/2, false)
	defer bar.Close()
	parts := make([]*match.Impostors, workers)
	group, ctx := errgroup.WithContext(ctx)
	for w := range workers {
		parts[w] = match.NewImpostors()
		group.Go(func() error {
			// Rows shrink from first to last; dealt out in turn, every worker
			// gets its share of long ones.
			for i := w; i < len(portraits); i += workers {
				if err := ctx.Err(); err != nil {
					return err
				}
				a := &portraits[i]
				for j := i + 1; j < len(portraits); j++ {
					if b := &portraits[j]; impostors(a, b) {
						parts[w].Add(a.embedding.Cosine(b.embedding))
					}
				}
				bar.Add(n - 1 - int64(i))
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for _, p := range parts[1:] {
		parts[0].Merge(p)
	}
	return parts[0], nil
}

// printCalibration writes the block as a manifest holds it: one point a line.
func printCalibration(w io.Writer, cal face.Calibration) error {
	_, err := fmt.Fprintf(w, "%s\n", formatCalibration(cal, ""))
	return err
}

// formatCalibration is the calibration as JSON, one point a line, all lines
// but the first indented.
func formatCalibration(cal face.Calibration, indent string) []byte {
	var b bytes.Buffer
	line := func(depth int, format string, args ...any) {
		b.WriteString("\n" + indent + strings.Repeat("  ", depth))
		fmt.Fprintf(&b, format, args...)
	}
	b.WriteString("{")
	line(1, `"source": %s,`, quoted(cal.Source))
	line(1, `"comparisons": %d,`, cal.Comparisons)
	line(1, `"points": [`)
	for i, p := range cal.Points {
		line(2, `{ "name": %s, "fmr": %v, "threshold": %v }%s`, quoted(p.Name), p.FMR, p.Threshold, comma(i, len(cal.Points)))
	}
	line(1, `],`)
	line(1, `"curve": [`)
	for i, p := range cal.Curve {
		line(2, `{ "score": %v, "fmr": %v }%s`, p.Score, p.FMR, comma(i, len(cal.Curve)))
	}
	line(1, `]`)
	line(0, `}`)
	return b.Bytes()
}

func comma(i, n int) string {
	if i == n-1 {
		return ""
	}
	return ","
}

func quoted(s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		return []byte(`""`)
	}
	return bytes.TrimSpace(b.Bytes())
}

// writeManifest puts the calibration into the manifest in a file and leaves
// the rest of its text alone. A file that is not there is made of the model's
// manifest. The result is checked before it takes the file's place.
func writeManifest(name string, model embed.Manifest, cal face.Calibration) error {
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		model.Calibration = nil
		text, err = json.MarshalIndent(model, "", "  ")
		text = append(text, '\n')
	}
	if err != nil {
		return err
	}
	old, err := embed.ParseManifest(text)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if old.ID != model.ID || old.SHA256 != model.SHA256 {
		return fmt.Errorf("%s is the manifest of another model (%s): the scores of %s say nothing of it", name, old.ID, model.ID)
	}
	text, err = replaceMember(text, "calibration", formatCalibration(cal, "  "))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, err := embed.ParseManifest(text); err != nil {
		return fmt.Errorf("%s would not be a manifest any more: %w", name, err)
	}
	return replaceFile(name, text)
}

// replaceMember replaces the value of a member of a JSON object, or appends
// the member, and keeps every other byte.
func replaceMember(object []byte, member string, value []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(object))
	if _, err := d.Token(); err != nil { // the opening brace
		return nil, err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		var old json.RawMessage
		if err := d.Decode(&old); err != nil {
			return nil, err
		}
		if end := int(d.InputOffset()); key == member {
			return bytes.Join([][]byte{object[:end-len(old)], value, object[end:]}, nil), nil
		}
	}
	end := int(d.InputOffset())
	return bytes.Join([][]byte{object[:end], []byte(",\n  " + string(quoted(member)) + ": "), value, object[end:]}, nil), nil
}

// replaceFile writes a file so that it is the old one or the new one, whatever
// happens in between.
func replaceFile(name string, content []byte) error {
	mode := fs.FileMode(0o644)
	if info, err := os.Stat(name); err == nil {
		mode = info.Mode().Perm()
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*.part")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
