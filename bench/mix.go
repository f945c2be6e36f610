package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// The mix of workerMix is that of the Go SDK's workers with sticky queues. It was counted on the clients' side of
// `make soak MINUTES=2` (e2e/soak: signals, updates, queries, children, chains, local activities, Nexus, schedules,
// retries, large payloads), 222 workflows, without Nexus tasks and without calls that failed:
//
//	call                                                 counted  share
//	PollWorkflowTaskQueue, sticky, 6 to 15 events            519     15
//	PollWorkflowTaskQueue, sticky, up to 5 events            235      6
//	PollWorkflowTaskQueue, first task, up to 5 events        343      9
//	PollWorkflowTaskQueue, whole history                      79      2
//	PollWorkflowTaskQueue, no task                            97      3
//	RespondWorkflowTaskCompleted, no command                 183      5
//	RespondWorkflowTaskCompleted, 1 command                  489     14
//	RespondWorkflowTaskCompleted, 1 command, task in answer  399     11
//	RespondWorkflowTaskCompleted, 2 or more commands         172      5
//	RespondActivityTaskCompleted                             508     14
//	RespondActivityTaskFailed                                129      4
//	PollActivityTaskQueue                                    140      4
//	PollActivityTaskQueue, no task                           132      4
//	RecordActivityTaskHeartbeat                              104      3
//	RespondQueryTaskCompleted                                 40      1
//
// More activities are completed than polled for, since most come with the answer to a completion. The bodies are the
// RPCs in testdata/rpc, which an SDK and a server exchanged. A sticky task has the last events of the recorded one.
type mixedCall struct {
	share    int
	method   string
	request  proto.Message
	response proto.Message
}

// mixCallers is how many calls of a worker are under way at a time.
const mixCallers = 16

// newMix makes the work from the recorded RPCs in dir.
func newMix(dir string) (work, error) {
	w := work{name: fmt.Sprintf("%s_x%d", mixWork, mixCallers), callers: mixCallers}
	r := &recording{dir: dir}
	mix := workerMix(r)
	if r.err != nil {
		return w, r.err
	}
	for _, m := range mix {
		c, err := newCall(m.method, m.request, m.response)
		if err != nil {
			return w, err
		}
		for range m.share {
			w.calls = append(w.calls, c)
		}
		w.stored = append(w.stored, answer{method: c.method, request: c.request, response: c.want})
	}
	order := rand.New(rand.NewPCG(11, 12))
	order.Shuffle(len(w.calls), func(i, j int) { w.calls[i], w.calls[j] = w.calls[j], w.calls[i] })
	return w, nil
}

// recording reads recorded messages. The first error stays.
type recording struct {
	dir string
	err error
}

// read decodes a file into a message and returns it.
func read[M proto.Message](r *recording, name string, m M) M {
	b, err := os.ReadFile(filepath.Join(r.dir, name+".binpb"))
	if err == nil {
		err = proto.Unmarshal(b, m)
	}
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("recorded RPC %s: %w", name, err)
	}
	return m
}

func workerMix(r *recording) []mixedCall {
	poll := read(r, "PollWorkflowTaskQueue.1.request", new(workflowservice.PollWorkflowTaskQueueRequest))
	whole := read(r, "PollWorkflowTaskQueue.1.response", new(workflowservice.PollWorkflowTaskQueueResponse))
	activityPoll := read(r, "PollActivityTaskQueue.1.request", new(workflowservice.PollActivityTaskQueueRequest))
	noActivity := proto.CloneOf(activityPoll)
	noActivity.TaskQueue = &taskqueuepb.TaskQueue{Name: "idle"}
	activity := read(r, "PollActivityTaskQueue.1.response", new(workflowservice.PollActivityTaskQueueResponse))
	activityCompleted := read(r, "RespondActivityTaskCompleted.1.request", new(workflowservice.RespondActivityTaskCompletedRequest))
	activityFailed := read(r, "RespondActivityTaskFailed.1.request", new(workflowservice.RespondActivityTaskFailedRequest))
	heartbeat := read(r, "RecordActivityTaskHeartbeat.1.request", new(workflowservice.RecordActivityTaskHeartbeatRequest))
	queried := read(r, "RespondQueryTaskCompleted.1.request", new(workflowservice.RespondQueryTaskCompletedRequest))
	eager := read(r, "RespondWorkflowTaskCompleted.1.response", new(workflowservice.RespondWorkflowTaskCompletedResponse))
	completed := func(n int) *workflowservice.RespondWorkflowTaskCompletedRequest {
		name := fmt.Sprintf("RespondWorkflowTaskCompleted.%d.request", n)
		q := read(r, name, new(workflowservice.RespondWorkflowTaskCompletedRequest))
		q.StickyAttributes = &taskqueuepb.StickyExecutionAttributes{WorkerTaskQueue: stickyQueue("worker"),
			ScheduleToStartTimeout: durationpb.New(5 * time.Second)}
		return q
	}
	none := completed(4)
	none.Commands = nil
	if r.err != nil {
		return nil
	}
	workflowPoll := func(share int, queue *taskqueuepb.TaskQueue, response proto.Message) mixedCall {
		q := proto.CloneOf(poll)
		q.TaskQueue = queue
		return mixedCall{share, "PollWorkflowTaskQueue", q, response}
	}
	completion := func(share int, request, response proto.Message) mixedCall {
		return mixedCall{share, "RespondWorkflowTaskCompleted", request, response}
	}
	normal := func(name string) *taskqueuepb.TaskQueue {
		return &taskqueuepb.TaskQueue{Name: name, Kind: enumspb.TASK_QUEUE_KIND_NORMAL}
	}
	noTask := new(workflowservice.RespondWorkflowTaskCompletedResponse)
	return []mixedCall{
		workflowPoll(15, stickyQueue("six-events"), taskOf(whole, 20, 25)),
		workflowPoll(6, stickyQueue("five-events"), taskOf(whole, 30, 34)),
		workflowPoll(9, normal("first-tasks"), taskOf(whole, 1, 3)),
		workflowPoll(2, poll.TaskQueue, whole),
		workflowPoll(3, normal("idle"), new(workflowservice.PollWorkflowTaskQueueResponse)),
		completion(5, none, noTask),
		completion(7, completed(3), noTask),
		completion(7, completed(4), noTask),
		completion(11, completed(2), eager),
		completion(5, completed(1), eager),
		{14, "RespondActivityTaskCompleted", activityCompleted, new(workflowservice.RespondActivityTaskCompletedResponse)},
		{4, "RespondActivityTaskFailed", activityFailed, new(workflowservice.RespondActivityTaskFailedResponse)},
		{4, "PollActivityTaskQueue", activityPoll, activity},
		{4, "PollActivityTaskQueue", noActivity, new(workflowservice.PollActivityTaskQueueResponse)},
		{3, "RecordActivityTaskHeartbeat", heartbeat, new(workflowservice.RecordActivityTaskHeartbeatResponse)},
		{1, "RespondQueryTaskCompleted", queried, new(workflowservice.RespondQueryTaskCompletedResponse)},
	}
}

func stickyQueue(name string) *taskqueuepb.TaskQueue {
	return &taskqueuepb.TaskQueue{Name: name, Kind: enumspb.TASK_QUEUE_KIND_STICKY, NormalName: "treatments"}
}

// taskOf returns the task whose history is only these events of a whole one: the last is the task's own start.
func taskOf(whole *workflowservice.PollWorkflowTaskQueueResponse, first, last int64) proto.Message {
	r := proto.CloneOf(whole)
	r.History.Events = r.History.Events[first-1 : last]
	r.PreviousStartedEventId, r.StartedEventId = max(0, first-1), last
	return r
}
