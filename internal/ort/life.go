package ort

import "sync"

// life is the time that a C object must stay: until its owner has closed it
// and everything made from it is closed too, in whatever order that happens.
type life struct {
	mu     sync.Mutex
	closed bool
	users  int
	free   func() error
}

func newLife(free func() error) *life { return &life{users: 1, free: free} }

// enter adds a user. It reports false once the owner has closed the object.
func (l *life) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.users++
	return true
}

// leave takes a user away and frees the object after the last.
func (l *life) leave() error {
	l.mu.Lock()
	l.users--
	last := l.users == 0
	l.mu.Unlock()
	if !last {
		return nil
	}
	return l.free()
}

// close is the owner's leave. A second close does nothing.
func (l *life) close() error {
	l.mu.Lock()
	again := l.closed
	l.closed = true
	l.mu.Unlock()
	if again {
		return nil
	}
	return l.leave()
}
