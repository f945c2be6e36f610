package main

import (
	"context"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"
)

// userHeader carries the name of the user behind a call from the client to workflows, and on to activities and children.
type userHeader struct{}

type userKey struct{}

const headerName = "user"

func withUser(ctx context.Context, user string) context.Context {
	return context.WithValue(ctx, userKey{}, user)
}

func userOf(ctx context.Context) string {
	user, _ := ctx.Value(userKey{}).(string)
	return user
}

func userOfWorkflow(ctx workflow.Context) string {
	user, _ := ctx.Value(userKey{}).(string)
	return user
}

func write(w workflow.HeaderWriter, user string) error {
	if user == "" {
		return nil
	}
	p, err := converter.GetDefaultDataConverter().ToPayload(user)
	if err == nil {
		w.Set(headerName, p)
	}
	return err
}

func read(r workflow.HeaderReader, to func(string)) error {
	return r.ForEachKey(func(name string, p *commonpb.Payload) error {
		var user string
		if name != headerName {
			return nil
		}
		if err := converter.GetDefaultDataConverter().FromPayload(p, &user); err != nil {
			return err
		}
		to(user)
		return nil
	})
}

func (userHeader) Inject(ctx context.Context, w workflow.HeaderWriter) error {
	return write(w, userOf(ctx))
}

func (userHeader) InjectFromWorkflow(ctx workflow.Context, w workflow.HeaderWriter) error {
	return write(w, userOfWorkflow(ctx))
}

func (userHeader) Extract(ctx context.Context, r workflow.HeaderReader) (context.Context, error) {
	err := read(r, func(user string) { ctx = withUser(ctx, user) })
	return ctx, err
}

func (userHeader) ExtractToWorkflow(ctx workflow.Context, r workflow.HeaderReader) (workflow.Context, error) {
	err := read(r, func(user string) { ctx = workflow.WithValue(ctx, userKey{}, user) })
	return ctx, err
}
