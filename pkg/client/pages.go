package client

import (
	"context"
	"iter"
)

// AllGalleries yields the galleries of the key's tenant, page after page.
func (c *Client) AllGalleries(ctx context.Context) iter.Seq2[Gallery, error] {
	return pages(func(cursor *string) ([]Gallery, *string, error) {
		page, err := c.ListGalleries(ctx, ListGalleriesParams{Cursor: cursor})
		if err != nil {
			return nil, nil, err
		}
		return page.Items, page.NextCursor, nil
	})
}

// AllSubjects yields the subjects of a gallery that the parameters ask for,
// page after page.
func (c *Client) AllSubjects(ctx context.Context, gallery string, params ListSubjectsParams) iter.Seq2[Subject, error] {
	return pages(func(cursor *string) ([]Subject, *string, error) {
		if cursor != nil {
			params.Cursor = cursor
		}
		page, err := c.ListSubjects(ctx, gallery, params)
		if err != nil {
			return nil, nil, err
		}
		return page.Items, page.NextCursor, nil
	})
}

// AllUncovered yields the subjects that need a new photo, page after page.
func (c *Client) AllUncovered(ctx context.Context, gallery string, params ListUncoveredParams) iter.Seq2[Uncovered, error] {
	return pages(func(cursor *string) ([]Uncovered, *string, error) {
		if cursor != nil {
			params.Cursor = cursor
		}
		page, err := c.ListUncovered(ctx, gallery, params)
		if err != nil {
			return nil, nil, err
		}
		return page.Items, page.NextCursor, nil
	})
}

// AllStyleTransfers yields the jobs of the key's tenant, the newest first, page
// after page.
func (c *Client) AllStyleTransfers(ctx context.Context) iter.Seq2[StyleTransfer, error] {
	return pages(func(cursor *string) ([]StyleTransfer, *string, error) {
		page, err := c.ListStyleTransfers(ctx, ListStyleTransfersParams{Cursor: cursor})
		if err != nil {
			return nil, nil, err
		}
		return page.Items, page.NextCursor, nil
	})
}

// pages yields the items of all pages. An error ends them.
func pages[T any](page func(cursor *string) (items []T, next *string, err error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var cursor *string
		for {
			items, next, err := page(cursor)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range items {
				if !yield(item, nil) {
					return
				}
			}
			if next == nil || *next == "" {
				return
			}
			cursor = next
		}
	}
}
