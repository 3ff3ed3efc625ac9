package main

import (
	"github.com/likeness-id/likeness/internal/ort"
	"github.com/likeness-id/likeness/pkg/style"
)

// engine opens the runtime and what makes pictures on it; done closes them.
func (c styleCmd) engine() (_ style.Transferrer, done func() error, err error) {
	rt, err := ort.Open(ort.Options{Library: c.ORTLibrary, Provider: c.Provider, Threads: c.threads()})
	if err != nil {
		return nil, nil, err
	}
	e, err := style.New(style.Options{Backend: rt})
	if err != nil {
		return nil, nil, err
	}
	return e, rt.Close, nil
}
