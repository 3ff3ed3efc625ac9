//go:build !linux

package jobs

import "log/slog"

// stepBack does nothing: a thread has no priority of its own here.
func stepBack(int, *slog.Logger) {}
