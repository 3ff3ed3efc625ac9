package ort

import "sync"

// life counts the users of a C object. The object is freed once its owner has
// closed it and everything that was made from it is closed, in any order.
type life struct {
	mu     sync.Mutex
	closed bool
	users  int
	free   func() error
}

func newLife(free func() error) *life { return &life{users: 1, free: free} }

// enter adds a user. It returns false if the owner has closed the object.
func (l *life) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.users++
	return true
}

// leave removes a user, and frees the object after the last one.
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

// close removes the owner. A second close does nothing.
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
