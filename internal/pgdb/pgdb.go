// Package pgdb is what all of this program that uses Postgres needs: it says
// how to connect, brings the schema up to date, repeats what met a lost
// connection, listens, and says what an error of Postgres means.
package pgdb

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/likeness-id/likeness/pkg/face"
)

const (
	// minConns is how many connections a pool may have when its URL does not
	// say (pool_max_conns): a few a core of a database with some.
	minConns = 16

	// tries is how often a call is made anew that met a lost connection or
	// somebody else's transaction, and retryPause how long it waits first: a
	// failover takes some seconds.
	tries      = 8
	retryPause = 25 * time.Millisecond

	// reconnectPause is how long a listener waits after a lost connection.
	reconnectPause = time.Second

	// closeTimeout is how long the end of a connection may take.
	closeTimeout = 2 * time.Second
)

// Config is how this program connects to the Postgres of a URL; the file, if it
// is named, holds the password. Invalid: the URL.
func Config(url, passwordFile string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		// The cause may quote the URL, and with it a password.
		return nil, face.Errorf(face.Invalid, "postgres", "the database URL cannot be read")
	}
	if !strings.Contains(url, "pool_max_conns") {
		config.MaxConns = max(config.MaxConns, minConns)
	}
	params := config.ConnConfig.RuntimeParams
	for name, value := range map[string]string{
		"application_name":                    "likeness",
		"lock_timeout":                        "10s",
		"idle_in_transaction_session_timeout": "60s",
		"timezone":                            "UTC",
		// A search looks costly enough to be compiled, which takes longer than
		// most searches and makes none of them faster.
		"jit": "off",
	} {
		if params[name] == "" {
			params[name] = value
		}
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	config.HealthCheckPeriod = 15 * time.Second
	if passwordFile != "" {
		config.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
			b, err := os.ReadFile(passwordFile)
			if err != nil {
				return err
			}
			c.Password = strings.TrimRight(string(b), "\r\n")
			return nil
		}
	}
	return config, nil
}

// InDoubt marks an error that left open whether a write was carried out.
type InDoubt struct{ Err error }

// Error implements error.
func (e InDoubt) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e InDoubt) Unwrap() error { return e.Err }

// InTransaction runs work in one transaction. [InDoubt]: the connection was
// lost in the middle of the commit; after any other error nothing is left.
func InTransaction(ctx context.Context, pool *pgxpool.Pool, work func(context.Context, pgx.Tx) error) error {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return err
	}
	if err := work(ctx, tx); err != nil {
		// The connection that cannot even roll back is thrown away.
		_ = tx.Rollback(ctx)
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		if IsLost(err) || ctx.Err() != nil {
			return InDoubt{err}
		}
		return err // refused, and rolled back
	}
	return nil
}

// Retry runs work until it succeeds, fails for good (see [IsTransient]), was
// tried eight times, or may refuses another try after an error.
func Retry(ctx context.Context, may func(error) bool, work func() error) error {
	pause := retryPause
	for try := 1; ; try++ {
		err := work()
		if err == nil || try == tries || !IsTransient(err) || !may(err) || !Pause(ctx, pause) {
			return err
		}
		pause = min(2*pause, time.Second)
	}
}

// Pause waits, and reports false when the context ended first.
func Pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Listen calls notify with the payload of each notification on a channel, until
// ctx ends. It connects again where the connection is lost, and calls lost with
// the reason: notifications of that time are not heard.
func Listen(ctx context.Context, pool *pgxpool.Pool, channel string, notify func(payload string), lost func(error)) {
	for {
		err := listenOnce(ctx, pool, channel, notify)
		if ctx.Err() != nil {
			return
		}
		lost(err)
		if !Pause(ctx, reconnectPause) {
			return
		}
	}
}

func listenOnce(ctx context.Context, pool *pgxpool.Pool, channel string, notify func(string)) error {
	pooled, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	conn := pooled.Hijack() // it listens, which no other user of the pool expects
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		_ = conn.Close(closing) // it was of no more use
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return err
	}
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		notify(n.Payload)
	}
}
