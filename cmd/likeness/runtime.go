package main

import (
	"fmt"

	"github.com/likeness-id/likeness/internal/fetch"
	"github.com/likeness-id/likeness/internal/ort"
	"github.com/likeness-id/likeness/pkg/likeness"
)

type runtimeCmd struct {
	Path runtimePath `cmd:"" help:"Print where ONNX Runtime's library is."`
	Pull runtimePull `cmd:"" help:"Fetch the pinned ONNX Runtime into the user's cache; it is checked before it is kept."`
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
	// npm, the second way to get it, tells nobody how far it is.
	fmt.Fprintf(t.stderr, "getting ONNX Runtime %s, unless it is in %s already\n", fetch.RuntimeVersion, dir)
	var bar *progress
	path, err := likeness.FetchRuntime(t.ctx, func(done, total int64) {
		if bar == nil {
			bar = newProgress(t.stderr, "fetching ONNX Runtime "+fetch.RuntimeVersion, total, true)
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
