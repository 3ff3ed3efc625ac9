package postgres_test

import (
	"bytes"
	"net"
	"net/url"
	"sync"
	"testing"
)

// proxy stands between a store and its database, as a network does, and can be
// cut.
type proxy struct {
	listener net.Listener
	target   string
	url      string

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
	// swallow, when it is there, is found in what a client sends; from then on
	// the client hears no more, and the connection ends once the server has
	// answered.
	swallow []byte
	running sync.WaitGroup
}

func newProxy(tb testing.TB, database string) *proxy {
	tb.Helper()
	u, err := url.Parse(database)
	if err != nil {
		tb.Fatal(err)
	}
	p := &proxy{target: u.Host, conns: map[net.Conn]bool{}}
	if p.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		tb.Fatal(err)
	}
	u.Host = p.listener.Addr().String()
	p.url = u.String()
	p.running.Go(p.accept)
	tb.Cleanup(func() {
		p.listener.Close()
		p.Cut()
		p.running.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		p.mu.Lock()
		if err != nil || p.cut {
			p.mu.Unlock()
			_ = client.Close()
			if err == nil {
				_ = server.Close()
			}
			continue
		}
		p.conns[client], p.conns[server] = true, true
		p.mu.Unlock()
		deaf := make(chan struct{})
		p.running.Go(func() { p.pipe(server, client, deaf, true) })
		p.running.Go(func() { p.pipe(client, server, deaf, false) })
	}
}

// pipe copies until one side ends.
func (p *proxy) pipe(to, from net.Conn, deaf chan struct{}, asks bool) {
	defer func() { _, _ = to.Close(), from.Close() }() // one end takes the other along
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if asks && p.swallows(buffer[:n]) {
			close(deaf)
		}
		if !asks {
			select {
			case <-deaf:
				return // the answer was on its way
			default:
			}
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *proxy) swallows(b []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.swallow) == 0 || !bytes.Contains(b, p.swallow) {
		return false
	}
	p.swallow = nil
	return true
}

// Swallow lets the next request with the text reach the database, and its
// answer nobody.
func (p *proxy) Swallow(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swallow = []byte(text)
}

func (p *proxy) swallowing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.swallow) > 0
}

// Cut ends all connections and refuses new ones.
func (p *proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

// Mend lets connections through again.
func (p *proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = false
}
