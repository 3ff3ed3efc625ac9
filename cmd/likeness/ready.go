package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// readyPatience is how long a server may take to say that it is ready.
const readyPatience = 4 * time.Second

// readyCmd is a health check for images that have no shell and no curl.
type readyCmd struct {
	Server string `default:"http://127.0.0.1:8080" env:"LIKENESS_SERVER" placeholder:"URL" help:"Where the server answers (default: http://127.0.0.1:8080)."`
}

// Run implements the command.
func (c readyCmd) Run(t *tool) error {
	base, err := url.Parse(c.Server)
	if err != nil {
		return usageError{fmt.Errorf("--server: %w", err)}
	}
	ctx, cancel := context.WithTimeout(t.ctx, readyPatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath("readyz").String(), nil)
	if err != nil {
		return usageError{fmt.Errorf("--server: %w", err)}
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %w", (&response{status: resp.StatusCode, body: body}).problem())
	}
	return nil
}
