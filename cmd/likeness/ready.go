package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/likeness-id/likeness/pkg/client"
)

// readyPatience is how long a server may take to say that it is ready.
const readyPatience = 4 * time.Second

// readyCmd is a health check for images that have no shell and no curl.
type readyCmd struct {
	Server string `default:"http://127.0.0.1:8080" env:"LIKENESS_SERVER" placeholder:"URL" help:"Where the server answers (default: http://127.0.0.1:8080)."`
}

// Run implements the command.
func (c readyCmd) Run(t *tool) error {
	ctx, cancel := context.WithTimeout(t.ctx, readyPatience)
	defer cancel()
	api, err := client.New(c.Server, client.Options{UserAgent: "likeness/" + version, Transport: &http.Transport{DisableKeepAlives: true}})
	if err != nil {
		return usageError{fmt.Errorf("--server: %w", err)}
	}
	_, err = api.GetReadiness(ctx, client.SingleAttempt())
	if _, ok := errors.AsType[*client.Problem](err); ok {
		return fmt.Errorf("not ready: %w", err)
	}
	return err
}
