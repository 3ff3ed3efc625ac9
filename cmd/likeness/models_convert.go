package main

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/likeness-id/likeness/internal/fetch"
	"github.com/likeness-id/likeness/internal/openvino"
	"github.com/likeness-id/likeness/pkg/app"
	"github.com/likeness-id/likeness/pkg/embed"
)

type modelsConvert struct {
	modelFolders
	ID    string   `arg:"" help:"Model to make, one whose source publishes it in another format (models/README.md)."`
	Files []string `arg:"" type:"existingfile" help:"The published files: for intel-0095 the graph (.xml) and the weights (.bin)."`
}

func (modelsConvert) Help() string {
	return `Does what likeness models pull does, for a machine that cannot reach the source. Download the files elsewhere, from the addresses in models/ID.json, and copy them. Their SHA-384 and the SHA-256 of the result are checked. The result goes into the data folder, where the server finds it:

likeness models convert intel-0095 face-reidentification-retail-0095.xml face-reidentification-retail-0095.bin`
}

func (c modelsConvert) Run(t *tool) error {
	registry, err := c.openRegistry()
	if err != nil {
		return err
	}
	m, err := registry.Model(c.ID)
	if err != nil {
		return usageError{err}
	}
	if m.Published == nil {
		return usageError{fmt.Errorf("%s is not made from files of another format", m.ID)}
	}
	to := filepath.Join(app.PulledModels(c.DataDir), m.File)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := convertModel(m.Manifest, c.Files, to); err != nil {
		return err
	}
	_, err = fmt.Fprintln(t.stdout, to)
	return err
}

// pullPublished downloads the files that a model is made from, makes the model's
// file in a folder, and removes the downloaded ones. It does nothing if the file
// is there.
func pullPublished(t *tool, client *fetch.Client, m embed.Model, dir string) error {
	if _, err := m.ReadVerified(); err == nil {
		_, err := fmt.Fprintln(t.stdout, m.Path)
		return err
	}
	total := int64(0)
	for _, f := range m.Published.Files {
		total += f.Size
	}
	bar := newProgress(t.stderr, "downloading "+m.ID, total, true)
	defer bar.Close()
	var files []string
	before := int64(0) // bytes of the files that are there
	for _, f := range m.Published.Files {
		to := filepath.Join(dir, m.ID+path.Ext(f.URL))
		file := fetch.File{URL: f.URL, SHA384: f.SHA384, MaxBytes: f.Size}
		if err := client.Get(t.ctx, file, to, func(done, _ int64) { bar.Set(before + done) }); err != nil {
			return err
		}
		before += f.Size
		files = append(files, to)
	}
	to := filepath.Join(dir, m.File)
	if err := convertModel(m.Manifest, files, to); err != nil {
		return err
	}
	for _, name := range files {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	bar.Print(t.stdout, "%s", to)
	return nil
}

// convertModel makes a model's file from the published ones, in their order. It
// checks the size and the hash of each, and of the result before it is written.
func convertModel(m embed.Manifest, files []string, to string) error {
	want := m.Published.Files
	if len(files) != len(want) {
		return usageError{fmt.Errorf("%s is made from %d files, not %d", m.ID, len(want), len(files))}
	}
	var contents [][]byte
	for i, name := range files {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		if info.Size() != want[i].Size {
			return fmt.Errorf("%s has %d bytes, and %s has %d", name, info.Size(), want[i].URL, want[i].Size)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if sum := sha512.Sum384(data); hex.EncodeToString(sum[:]) != want[i].SHA384 {
			return fmt.Errorf("%s has SHA-384 %x, and %s has %s", name, sum, want[i].URL, want[i].SHA384)
		}
		contents = append(contents, data)
	}
	// openvino-ir-11 is the only format that a manifest may name.
	model, err := openvino.Convert(contents[0], contents[1], openvino.Names{
		Graph: strings.TrimSuffix(m.File, ".onnx"), Input: m.Input.Name, Output: m.Outputs[0].Name,
	})
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(model); hex.EncodeToString(sum[:]) != m.SHA256 {
		return fmt.Errorf("the files of %s became a model with SHA-256 %x, and its manifest says %s", m.ID, sum, m.SHA256)
	}
	return replaceFile(to, model)
}
