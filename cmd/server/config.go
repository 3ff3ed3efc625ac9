package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/likeness-id/likeness/internal/spelling"
)

// configFile reads the --config file. Kong alone would let the file win over
// the environment and would ignore a misspelt name. Here the environment wins,
// and an unknown name is an error.
func configFile(r io.Reader) (kong.Resolver, error) {
	b, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		return nil, err
	}
	var values map[string]any
	if err := json.Unmarshal(b, &values); err != nil {
		return nil, fmt.Errorf("the config file is not a JSON object: %w", err)
	}
	file, err := kong.JSON(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return &fileOptions{file, values}, nil
}

type fileOptions struct {
	kong.Resolver
	values map[string]any
}

// Validate refuses names that no flag has.
func (f *fileOptions) Validate(app *kong.Application) error {
	var options []string
	for _, flag := range app.Flags {
		options = append(options, flag.Name, strings.ReplaceAll(flag.Name, "-", "_"))
	}
	for _, name := range slices.Sorted(maps.Keys(f.values)) {
		if slices.Contains(options, name) {
			continue
		}
		if nearest := spelling.Nearest(name, options); nearest != "" {
			return fmt.Errorf("the config file names %q, which is not an option: did you mean %q?", name, nearest)
		}
		return fmt.Errorf("the config file names %q, which is not an option", name)
	}
	return nil
}

// Resolve returns nothing for a flag that the environment sets.
func (f *fileOptions) Resolve(ctx *kong.Context, parent *kong.Path, flag *kong.Flag) (any, error) {
	for _, env := range flag.Envs {
		if _, ok := os.LookupEnv(env); ok {
			return nil, nil
		}
	}
	if v, ok := f.values[flag.Name]; ok {
		return v, nil
	}
	return f.Resolver.Resolve(ctx, parent, flag)
}
