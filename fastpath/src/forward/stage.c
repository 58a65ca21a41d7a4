// The order of the stages (forward/stage.h).
#include "forward/stage.h"

#include "forward/police.h"

enum drop_reason stages_ingress(struct forward *f, const struct interface_entry *in, struct packet *packet,
	uint16_t source_group, bool own_echo)
{
	struct stage stage = {
		.packet = packet, .interface = in, .ip = packet_data(packet) + packet->l3,
		.length = packet->length - packet->l3, .direction = STAGE_IN, .mark = STAGE_NO_MARK,
		.own_echo = own_echo, .source_group = source_group
	};
	enum drop_reason reason = DROP_NONE;

	stage.family = stage.ip[0] >> 4;
	packet->staged = true;
	if ((in->features & FEATURE_ACL_IN) != 0)
		reason = stage_acl(f, &stage);
	if (reason == DROP_NONE && (in->features & FEATURE_RPF) != 0)
		reason = stage_rpf(f, &stage);
	if (reason == DROP_NONE && (in->features & FEATURE_POLICE_IN) != 0)
		reason = stage_police(f, &stage);
	if (reason == DROP_NONE && ((in->features & FEATURE_DSCP_IN) != 0 || stage.mark != STAGE_NO_MARK))
		stage_dscp(f, &stage);
	return reason;
}

enum drop_reason stages_egress(struct forward *f, const struct interface_entry *out, struct packet *packet)
{
	struct stage stage = {
		.packet = packet, .interface = out, .ip = packet_data(packet), .length = packet->length,
		.direction = STAGE_OUT, .mark = STAGE_NO_MARK, .own = packet->ingress == 0
	};
	enum drop_reason reason = DROP_NONE;

	stage.family = stage.ip[0] >> 4;
	if ((out->features & FEATURE_ACL_OUT) != 0)
		reason = stage_acl(f, &stage);
	if (reason == DROP_NONE && ((out->features & FEATURE_DSCP_OUT) != 0 || stage.mark != STAGE_NO_MARK))
		stage_dscp(f, &stage);
	if (reason == DROP_NONE && (out->features & FEATURE_POLICE_OUT) != 0)
		reason = stage_police(f, &stage);
	return reason;
}
