package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/likeness-id/likeness/pkg/client"
)

// keyEnv names the environment variable with the API key's secret. A flag
// would show the secret to everyone who lists processes.
const keyEnv = "LIKENESS_KEY"

// keyAdvice follows an error about the key.
const keyAdvice = "; put the secret of a good key into " + keyEnv + ", or name a file that holds it with --key-file"

// serverFlags say which server to speak to, and with which key.
type serverFlags struct {
	Server  string `default:"http://127.0.0.1:8080" env:"LIKENESS_SERVER" placeholder:"URL" help:"Where the server answers (default: http://127.0.0.1:8080)."`
	KeyFile string `type:"existingfile" placeholder:"FILE" help:"File with the API key's secret; else LIKENESS_KEY holds it."`
}

// Validate refuses what is no address.
func (c serverFlags) Validate() error {
	u, err := url.Parse(c.Server)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("--server: %q is not http://HOST:PORT or https://HOST", c.Server)
	}
	return nil
}

// connect makes a client for so many requests at a time, of a server that
// answers. Close its idle connections when it is done.
func (c serverFlags) connect(t *tool, parallel int) (*client.Client, error) {
	key, err := c.key()
	if err != nil {
		return nil, usageError{err}
	}
	u, err := url.Parse(c.Server)
	if err != nil {
		return nil, usageError{err}
	}
	if key != "" && u.Scheme == "http" && !loopback(u.Hostname()) {
		fmt.Fprintln(t.stderr, "likeness: the API key and what is sent travel unencrypted to", u.Host)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = parallel
	api, err := client.New(c.Server, client.Options{Key: key, UserAgent: "likeness/" + version, Transport: transport})
	if err != nil {
		return nil, usageError{err}
	}
	if err := reach(t.ctx, u, transport); err != nil {
		api.CloseIdleConnections()
		return nil, err
	}
	return api, nil
}

// reach finds out whether a server answers at all, once, so that a wrong
// address is one error and not one for each photo.
func reach(ctx context.Context, server *url.URL, transport http.RoundTripper) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.JoinPath("healthz").String(), nil)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, client.DefaultOptions().AttemptTimeout)
	defer cancel()
	resp, err := transport.RoundTrip(req.WithContext(limited))
	if err != nil {
		return fmt.Errorf("no server answers at %s; start one, or name it with --server: %w", server, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("what answers at %s is no Likeness server, or not a healthy one: its /healthz says %s", server, resp.Status)
	}
	return nil
}

// explainProblem is a problem in one line, with what to do about a key.
func explainProblem(p *client.Problem) string {
	if p.Code == client.ProblemCodeUnauthenticated {
		return p.Explain() + keyAdvice
	}
	return p.Explain()
}

// key is the secret of the API key; empty for a server that wants none.
func (c serverFlags) key() (string, error) {
	secret := os.Getenv(keyEnv)
	if c.KeyFile != "" {
		b, err := os.ReadFile(c.KeyFile)
		if err != nil {
			return "", fmt.Errorf("--key-file: %w", err)
		}
		secret = string(b)
	}
	secret = strings.TrimSpace(secret)
	if strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", errors.New("the API key has characters that no key has")
	}
	return secret, nil
}

// loopback reports whether what is sent to the host stays on this machine.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
