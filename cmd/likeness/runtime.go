package main

import (
	"fmt"

	"github.com/likeness-id/likeness/internal/fetch"
	"github.com/likeness-id/likeness/internal/ort"
	"github.com/likeness-id/likeness/pkg/likeness"
)

type runtimeCmd struct {
	Path runtimePath `cmd:"" help:"Print the path of ONNX Runtime's library."`
	Pull runtimePull `cmd:"" help:"Download ONNX Runtime, of a fixed version, into the user's cache. Its hash is checked."`
}

type runtimePath struct{}

func (runtimePath) Run(t *tool) error {
	path, err := ort.Find()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(t.stdout, path)
	return err
}

type runtimePull struct{}

func (runtimePull) Run(t *tool) error {
	dir, err := fetch.RuntimeDir()
	if err != nil {
		return err
	}
	// npm, the second way to get it, reports no progress.
	fmt.Fprintf(t.stderr, "downloading ONNX Runtime %s to %s, unless it is there\n", fetch.RuntimeVersion, dir)
	var bar *progress
	path, err := likeness.FetchRuntime(t.ctx, func(done, total int64) {
		if bar == nil {
			bar = newProgress(t.stderr, "downloading ONNX Runtime "+fetch.RuntimeVersion, total, true)
		}
		bar.Set(done)
	})
	if bar != nil {
		bar.Close()
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(t.stdout, path)
	return err
}
