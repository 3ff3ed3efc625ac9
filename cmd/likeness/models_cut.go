package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/grad"
)

// cutModel cuts a model out of the larger file that was downloaded, whose hash
// was checked. It writes a manifest beside it with the size and hash of the
// smaller file, and removes the larger one.
func cutModel(whole string, m embed.Manifest, dir string) error {
	data, err := os.ReadFile(whole)
	if err != nil {
		return err
	}
	parsed, err := grad.Parse(data)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(whole), err)
	}
	var layers []string
	for _, o := range m.Outputs {
		layers = append(layers, o.Name)
	}
	small, err := parsed.Cut(layers...)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(small)
	m.SHA256, m.Size = hex.EncodeToString(sum[:]), int64(len(small))
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if _, err := embed.ParseManifest(text); err != nil {
		return err
	}
	// The file comes first, so that no manifest names a file that does not exist.
	if err := replaceFile(filepath.Join(dir, m.File), small); err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(dir, m.ID+".json"), append(text, '\n')); err != nil {
		return err
	}
	if err := os.Remove(whole); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
