package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/likeness-id/likeness/internal/series"
	"github.com/likeness-id/likeness/pkg/likeness"
	"github.com/likeness-id/likeness/pkg/style"
)

// openEngine opens the runtime and what makes pictures on it; done closes them.
func (c styleCmd) openEngine() (_ *style.Engine, done func() error, err error) {
	registry, err := c.openRegistry()
	if err != nil {
		return nil, nil, err
	}
	rt, err := likeness.OpenBackend(likeness.BackendOptions{Library: c.ORTLibrary, Provider: c.Provider, Threads: c.threads()})
	if err != nil {
		return nil, nil, err
	}
	e, err := style.New(style.Options{Backend: rt, Networks: likeness.FeatureNetworks(registry)})
	if err != nil {
		return nil, nil, errors.Join(err, rt.Close())
	}
	return e, rt.Close, nil
}

// maxFieldBytes bounds the file of a signal or a volume.
const maxFieldBytes = 512 << 20

// readField reads a signal or a volume.
func readField(flag, name string, axes int) (*series.Field, error) {
	data, err := readLimited(name, maxFieldBytes)
	var f *series.Field
	if err == nil {
		f, err = series.Decode(filepath.Ext(name), data, axes)
	}
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %s: %s", flag, name, explain(err))}
	}
	return f, nil
}

// asField is what the engine takes.
func asField(f *series.Field) style.Field {
	out := style.Field{Channels: int(f.Shape[0]), Data: f.Data}
	for _, n := range f.Shape[1:] {
		out.Size = append(out.Size, int(n))
	}
	return out
}
