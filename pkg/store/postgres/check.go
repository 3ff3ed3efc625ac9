package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// Check looks for what is wrong with what the store holds and calls found for
// each finding; it stops at the first error of found. It changes nothing, and
// works beside servers: it reads one snapshot. The pages and indexes are the
// database's to check (pg_amcheck). The errors are those of [Open].
func Check(ctx context.Context, url, passwordFile string, found func(store.Finding) error) error {
	s, err := Open(ctx, Options{URL: url, PasswordFile: passwordFile, Search: SearchPgvector})
	if err != nil {
		return err
	}
	const op = "Check"
	err = s.db.call(op, func() error {
		tx, err := s.db.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // nothing was written
		c := checker{ctx, tx, found}
		for _, look := range []func() error{c.embeddings, c.counts, c.fused, c.references} {
			if err := look(); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		if _, broken := s.VerifyAudit(ctx); broken != nil {
			if face.KindOf(broken) == face.Internal {
				err = found(store.Finding{Check: store.CheckAudit, Detail: broken.Error(), Mend: store.MendAudit})
			} else {
				err = broken
			}
		}
	}
	if closing := s.Close(); err == nil {
		err = closing
	}
	return err
}

// checker is one check under way.
type checker struct {
	ctx   context.Context // of the one call that makes it
	q     querier
	found func(store.Finding) error
}

func (c checker) embeddings() error {
	return eachDamaged(c.ctx, c.q, usualModels, suspect, nil, func(at store.Place, damage error) error {
		return c.found(store.Finding{
			Check: store.CheckEmbedding, Tenant: at.Tenant, Gallery: at.Gallery, SubjectID: at.SubjectID, TemplateID: at.TemplateID,
			Detail: "the embedding is damaged: " + store.Reason(damage), Mend: store.MendTemplate,
		})
	})
}

// each makes a finding of each row: tenant, gallery, subject, template, what is
// wrong, and a statement that mends it, or nothing.
func (c checker) each(check, query string) error {
	rows, err := c.q.Query(c.ctx, query)
	return scanAll(rows, err, func(rows pgx.Rows) error {
		f := store.Finding{Check: check}
		var statement string
		if err := rows.Scan(&f.Tenant, &f.Gallery, &f.SubjectID, &f.TemplateID, &f.Detail, &statement); err != nil {
			return err
		}
		f.Mend = store.MendRestore
		if statement != "" {
			f.Mend = fmt.Sprintf("stop the servers and run with psql: %s; or %s", statement, store.MendRestore)
		}
		return c.found(f)
	})
}

func (c checker) counts() error {
	return c.each(store.CheckCount, `
		SELECT tenant, id, '', '', format('the gallery says that it has %s subjects, and has %s', subjects, are),
			format('UPDATE gallery SET subjects = (SELECT count(*) FROM subject WHERE gallery = %s) WHERE row_id = %1$s', row_id)
		FROM (SELECT g.*, (SELECT count(*) FROM subject s WHERE s.gallery = g.row_id) AS are FROM gallery g) g WHERE subjects <> are
		UNION ALL
		SELECT g.tenant, g.id, '', '', format('the gallery says that it has %s templates of %s subjects of the model %s, and has %s of %s',
				m.templates, m.subjects, m.model_id, coalesce(t.templates, 0), coalesce(t.subjects, 0)),
			CASE WHEN t.templates IS NULL THEN format('DELETE FROM gallery_model WHERE row_id = %s', m.row_id)
				ELSE format('UPDATE gallery_model SET templates = %s, subjects = %s WHERE row_id = %s', t.templates, t.subjects, m.row_id) END
		FROM gallery_model m JOIN gallery g ON g.row_id = m.gallery
		LEFT JOIN (SELECT gallery_model, count(*) AS templates, count(DISTINCT subject) AS subjects FROM template GROUP BY 1) t ON t.gallery_model = m.row_id
		WHERE m.templates <> coalesce(t.templates, 0) OR m.subjects <> coalesce(t.subjects, 0)
		UNION ALL
		SELECT g.tenant, g.id, '', '', format('the gallery_model says that embeddings of %s have %s numbers, and most have %s', m.model_id, m.dimension, u.dimension),
			format('UPDATE gallery_model SET dimension = %s WHERE row_id = %s', u.dimension, m.row_id)
		FROM gallery_model m JOIN gallery g ON g.row_id = m.gallery JOIN `+usualModels+` u ON u.row_id = m.row_id
		WHERE m.dimension <> u.dimension`)
}

// fused compares what is searched of each subject with their templates. Of those
// with a damaged one it was made before, and will be made anew when that is
// erased.
func (c checker) fused() error {
	return c.each(store.CheckFused, `
		SELECT g.tenant, g.id, s.id, '', format('what is searched of the subject is not made of the %s templates of the model %s', p.n, u.model_id),
			format('SELECT fuse_templates(ARRAY[%s], ARRAY[%s])', p.subject, p.gallery_model)
		FROM (SELECT subject, gallery_model, count(*) AS n, count(*) FILTER (WHERE searched) AS searched, count(fused) AS fused FROM template GROUP BY 1, 2) p
		JOIN `+usualModels+` u ON u.row_id = p.gallery_model JOIN subject s ON s.row_id = p.subject JOIN gallery g ON g.row_id = s.gallery
		CROSS JOIN LATERAL (
			SELECT bool_and(e.sound) AS sound, (array_agg(e.searched ORDER BY e.id))[1] AS searched, (array_agg(e.fused ORDER BY e.id))[1] AS fused,
				CASE WHEN vector_norm(avg(e.embedding) FILTER (WHERE e.sound)) >= 1e-3
					THEN avg(e.embedding) FILTER (WHERE e.sound) END AS mean
			FROM (SELECT t.*, vector_dims(t.embedding) = u.dimension AND abs(vector_norm(t.embedding) - 1) <= 1e-3 AS sound
				FROM template t WHERE t.subject = p.subject AND t.gallery_model = p.gallery_model AND p.n > 1) e
		) is_so
		WHERE p.n = 1 AND (p.searched <> 1 OR p.fused <> 0)
			OR p.n > 1 AND is_so.sound AND (p.searched <> 1 OR NOT is_so.searched OR p.fused <> CASE WHEN is_so.mean IS NULL THEN 0 ELSE 1 END
			OR CASE WHEN is_so.fused IS NULL OR is_so.mean IS NULL THEN false WHEN vector_dims(is_so.fused) <> vector_dims(is_so.mean) THEN true
				ELSE NOT ((is_so.fused <=> is_so.mean) < 1e-3 AND abs(vector_norm(is_so.fused) - vector_norm(is_so.mean) ^ 0.4375) < 1e-3) END)`)
}

func (c checker) references() error {
	if err := c.each(store.CheckReference, `
		SELECT coalesce(g.tenant, ''), coalesce(g.id, ''), coalesce(s.id, ''), t.id,
			CASE WHEN s.row_id IS NULL THEN 'the template refers to a subject that is not there'
				WHEN m.row_id IS NULL THEN 'the template refers to a gallery_model that is not there'
				ELSE 'the template is in another gallery than its subject or its model' END,
			format('DELETE FROM template WHERE row_id = %s', t.row_id)
		FROM template t LEFT JOIN subject s ON s.row_id = t.subject LEFT JOIN gallery_model m ON m.row_id = t.gallery_model
		LEFT JOIN gallery g ON g.row_id = t.gallery
		WHERE s.row_id IS NULL OR m.row_id IS NULL OR s.gallery <> t.gallery OR m.gallery <> t.gallery`); err != nil {
		return err
	}
	return c.each(store.CheckCrop, `
		SELECT g.tenant, g.id, s.id, '', format('the crop of the sample %s %s', c.sample, CASE
				WHEN length(c.sealed) = 0 THEN 'is empty'
				WHEN s.gallery <> c.gallery THEN 'is in another gallery than its subject'
				ELSE 'has no template of its subject' END),
			format('DELETE FROM crop WHERE gallery = %s AND sample = %L', c.gallery, c.sample)
		FROM crop c JOIN subject s ON s.row_id = c.subject JOIN gallery g ON g.row_id = c.gallery
		WHERE length(c.sealed) = 0 OR s.gallery <> c.gallery
			OR NOT EXISTS (SELECT 1 FROM template t WHERE t.gallery = c.gallery AND t.sample = c.sample AND t.subject = c.subject)`)
}
