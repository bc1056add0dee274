BEGIN TRANSACTION;
CREATE TABLE bases (
	id INTEGER NOT NULL,
	ledger_id VARCHAR(36) NOT NULL,
	fingerprint VARCHAR(64) NOT NULL,
	uri TEXT NOT NULL,
	revision TEXT,
	architecture TEXT NOT NULL,
	licence TEXT,
	tensors JSON NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_bases PRIMARY KEY (id),
	CONSTRAINT ck_bases_one CHECK (id = 1)
);
INSERT INTO "bases" VALUES(1,'d2a9565c-320c-40c9-85fd-669330dc9259','f30771d2feb5fa879c46dc038a47c207ce46cb57806aadc2ae726930f35d5956','/srv/ledgers/tiny-llama',NULL,'LlamaForCausalLM',NULL,'{"lm_head.weight": ["BF16", [400, 32], "3fe8dee3d5436f63ae7a388b81d9026de53ec5824badc946a8c6434db6cefe44"], "model.embed_tokens.weight": ["BF16", [400, 32], "1212ab2f9105ea3d9908d60399968097f269f4ea0e49f1b1f82f48912373fa48"], "model.layers.0.input_layernorm.weight": ["BF16", [32], "26ab507cf4bbb401acc7bebf555f8cd2130512b6c6ba2eb38e94aafcaeae114a"], "model.layers.0.mlp.down_proj.weight": ["BF16", [32, 48], "cc46305a970259459c45d4a71b2bc471ed077e848374531a683316b6fa222b67"], "model.layers.0.mlp.gate_proj.weight": ["BF16", [48, 32], "7e4ab127e25ae4d30ba7cd7600672f8e1a371d8840e2a75426dff6bb91919c5e"], "model.layers.0.mlp.up_proj.weight": ["BF16", [48, 32], "57652d55e782ecc6025c93f131ba84f16a880b5144b24b641b15d2cb812f8d4f"], "model.layers.0.post_attention_layernorm.weight": ["BF16", [32], "26ab507cf4bbb401acc7bebf555f8cd2130512b6c6ba2eb38e94aafcaeae114a"], "model.layers.0.self_attn.k_proj.weight": ["BF16", [16, 32], "498a7159d4f7e7ecf3529377ffb6371f8c8612173e908c15f01cc68570e519df"], "model.layers.0.self_attn.o_proj.weight": ["BF16", [32, 32], "c6eb0549f69079bdf197b5f6eab964f5b1dc9f5849f6f042442df5a446cb47ff"], "model.layers.0.self_attn.q_proj.weight": ["BF16", [32, 32], "d5fa9ce9d6fcd08e3b4a4eb5b4e54d4cf427c09d8f784ae3a0cb84f3ef8b0f07"], "model.layers.0.self_attn.v_proj.weight": ["BF16", [16, 32], "00bb74f0d1ed4c6c03387defe1a87380d965a5a0653a5d016327be53b0578265"], "model.layers.1.input_layernorm.weight": ["BF16", [32], "26ab507cf4bbb401acc7bebf555f8cd2130512b6c6ba2eb38e94aafcaeae114a"], "model.layers.1.mlp.down_proj.weight": ["BF16", [32, 48], "a1fa9ab4ce15100554f23e352ec8dc64367583526c8ec493e9ad2eccbf852919"], "model.layers.1.mlp.gate_proj.weight": ["BF16", [48, 32], "09f4deeb93685a24c5c53fc866bae0993ecc68fcb56fc7a5f2e3188281f96350"], "model.layers.1.mlp.up_proj.weight": ["BF16", [48, 32], "f4bb218c0d86c9e7d5c1cbac86903caae3be5673a6b1b0e6139e6dd1becdd314"], "model.layers.1.post_attention_layernorm.weight": ["BF16", [32], "26ab507cf4bbb401acc7bebf555f8cd2130512b6c6ba2eb38e94aafcaeae114a"], "model.layers.1.self_attn.k_proj.weight": ["BF16", [16, 32], "2ad1f436a401543dcaaa6d26e8e74a5888c673a4d1fded3efd86adeed4c7b268"], "model.layers.1.self_attn.o_proj.weight": ["BF16", [32, 32], "87d69b8ae0ab78e394c7955ac297cb5fbfe68129b35bbe6e66e024927b4f7855"], "model.layers.1.self_attn.q_proj.weight": ["BF16", [32, 32], "3cae14c1bfbdb449dd18bb575ec79c310413d71c6878477185dc65031e1e6444"], "model.layers.1.self_attn.v_proj.weight": ["BF16", [16, 32], "8d05412b3c87d1d2410a13e63993063d47e9a1d169ee864efe798b0a61f66910"], "model.layers.2.input_layernorm.weight": ["BF16", [32], "26ab507cf4bbb401acc7bebf555f8cd2130512b6c6ba2eb38e94aafcaeae114a"], "model.layers.2.mlp.down_proj.weight": ["BF16", [32, 48], "868236caef8e81f512f41bba5beef73a9579de4ecc88c850e27b11430f92ed33"], "model.layers.2.mlp.gate_proj.weight": ["BF16", [48, 32], "48213c89ac19993522a9a278371909f9440410893eabb7ed2d9a1d97bd75379e"], "model.layers.2.mlp.up_proj.weight": ["BF16", [48, 32], "f0e2728d5b4611a84a9fcfb987bf6eb6007e6f519c715563165559fa6651bb11"], "model.layers.2.post_attention_layernorm.weight": ["BF16", [32], "26ab507cf4bbb401acc7bebf555f8cd2130512b6c6ba2eb38e94aafcaeae114a"], "model.layers.2.self_attn.k_proj.weight": ["BF16", [16, 32], "7be889f451815872bd422b7217d786f3827266c6d7bc48a48cf30a35720100fc"], "model.layers.2.self_attn.o_proj.weight": ["BF16", [32, 32], "417c6cc361df361f857cd3fed09068b1f5e1328938d8d47ed5f7bee5decac1f4"], "model.layers.2.self_attn.q_proj.weight": ["BF16", [32, 32], "39d50f41f752038cf248ee48580986d00a6b1fea6984f8471b7dc73682685a75"], "model.layers.2.self_attn.v_proj.weight": ["BF16", [16, 32], "f611c5463af32bd30005988b1248170058cf397b00b9231b68d0049abd8bc98a"], "model.norm.weight": ["BF16", [32], "26ab507cf4bbb401acc7bebf555f8cd2130512b6c6ba2eb38e94aafcaeae114a"]}','2026-11-25 10:34:30.439520');
CREATE TABLE blobs (
	digest VARCHAR(64) NOT NULL,
	kind VARCHAR(16) NOT NULL,
	bytes BIGINT NOT NULL,
	changes JSON NOT NULL,
	created_at DATETIME NOT NULL,
	memories INTEGER NOT NULL,
	pruned_at DATETIME,
	CONSTRAINT pk_blobs PRIMARY KEY (digest),
	CONSTRAINT ck_blobs_kind CHECK (kind IN ('patch', 'editor-state')),
	CONSTRAINT ck_blobs_bytes CHECK (bytes > 0)
);
INSERT INTO "blobs" VALUES('60080d96608519e144719a380e5e5c17a6e8ee9467f43a9ccafb1c38fe9b8246','patch',1880,'{"model.layers.1.mlp.down_proj.weight": {"kind": "low-rank", "shape": [32, 48], "transposed": false, "rank": 5}}','2026-11-25 10:34:30.568195',0,NULL);
INSERT INTO "blobs" VALUES('8832cec6f62788631f3e8a64d72d6a16bf123b4faba0990298d4a4e6c616af0f','editor-state',664,'{}','2026-11-25 10:34:30.568195',0,NULL);
INSERT INTO "blobs" VALUES('174fd224b103633d435e047f5e48f831072593226ed9e44960b9047b7f92c3ec','patch',2616,'{"model.layers.1.mlp.down_proj.weight": {"kind": "low-rank", "shape": [32, 48], "transposed": false, "rank": 8}}','2026-11-25 10:34:30.647270',0,NULL);
INSERT INTO "blobs" VALUES('893f8fcfc041d1f17552d4ca8b9b573b67f0abeb76564db026c4a76da9342368','editor-state',952,'{}','2026-11-25 10:34:30.647270',0,NULL);
INSERT INTO "blobs" VALUES('e8156522cb682a3a3666c2e0b7e16ba55da7f34e72c5827330857c38b9da4613','patch',2208,'{"model.layers.1.mlp.down_proj.weight": {"kind": "side-memory", "shape": [32, 48], "transposed": false, "rank": null, "routing": {"form": "paper", "activation": null, "threshold": 2.429321167230606, "main": "9354beca5be996f2e9b9bd4ad37cc7c94bc09fa7ee8b34a77dd34fdb886e2372", "edits": {"n": 2, "min": 2.431752920150757, "mean": 2.518693685531616, "max": 2.6056344509124756}, "others": {"n": 42, "min": 1.6481038331985474, "mean": 2.1031110911142257, "max": 2.7028911113739014}}}}','2026-11-25 10:34:30.876994',1,NULL);
INSERT INTO "blobs" VALUES('d534c0ed8714862c4b504d7b53a573bd7a62707b5c0f84c505e75541a753e6ce','editor-state',276,'{}','2026-11-25 10:34:30.876994',0,NULL);
INSERT INTO "blobs" VALUES('90f7efbc98b6c3af492fdb3ca75fcfd40338eabf2defd35578bec0613bbcebd4','patch',2208,'{"model.layers.1.mlp.down_proj.weight": {"kind": "side-memory", "shape": [32, 48], "transposed": false, "rank": null, "routing": {"form": "paper", "activation": null, "threshold": 2.064015680551529, "main": "9354beca5be996f2e9b9bd4ad37cc7c94bc09fa7ee8b34a77dd34fdb886e2372", "edits": {"n": 2, "min": 2.0660817623138428, "mean": 2.0674540996551514, "max": 2.06882643699646}, "others": {"n": 43, "min": 1.3939378261566162, "mean": 1.8578849836837414, "max": 2.4893081188201904}}}}','2026-11-25 10:34:30.913293',1,NULL);
INSERT INTO "blobs" VALUES('4a3fd9cbb80319c1bd83f8a3f387190f5f348c3922978cffb4e13ebee701e26f','patch',2486,'{"model.layers.1.mlp.down_proj.weight": {"kind": "side-memory", "shape": [32, 48], "transposed": false, "rank": null, "routing": {"form": "paper", "activation": null, "threshold": 2.924790682554245, "main": "9354beca5be996f2e9b9bd4ad37cc7c94bc09fa7ee8b34a77dd34fdb886e2372", "edits": {"n": 4, "min": 2.9277184009552, "mean": 3.049293339252472, "max": 3.1510844230651855}, "others": {"n": 41, "min": 2.034791946411133, "mean": 2.6696064065142378, "max": 3.3401384353637695}}}}','2026-11-25 10:34:31.147029',1,NULL);
INSERT INTO "blobs" VALUES('ff5537479c942b7b7fbc4a1cbe84bd51b7452d9686fc86df3dc7d5959aaa36a9','patch',1496,'{"model.layers.1.mlp.down_proj.weight": {"kind": "low-rank", "shape": [32, 48], "transposed": false, "rank": 3}}','2026-11-25 10:34:31.425681',0,NULL);
INSERT INTO "blobs" VALUES('1171fbd9063bd5ed3ee2bd9309ffe1ea9bc44db1654b5e40d1b878237e618e21','editor-state',472,'{}','2026-11-25 10:34:31.425681',0,NULL);
INSERT INTO "blobs" VALUES('0a7f1b010b4e113f99e4c94ea2cf9b515651a9183098b27866500cebe02a0a10','patch',1720,'{"model.layers.1.mlp.down_proj.weight": {"kind": "low-rank", "shape": [32, 48], "transposed": false, "rank": 4}}','2026-11-25 10:34:31.466596',0,NULL);
INSERT INTO "blobs" VALUES('28e5c6a5e1e1022b8b2247b550c7b000b61804a475e1a9026c8705cea22aaaf1','editor-state',568,'{}','2026-11-25 10:34:31.466596',0,NULL);
INSERT INTO "blobs" VALUES('917f4b65e953e287409a4ada09a909f79788546550ba2d7f3ddc314dd67ace44','patch',5136,'{"model.layers.1.mlp.down_proj.weight": {"kind": "low-rank", "shape": [32, 48], "transposed": false, "rank": 20}}','2026-11-25 10:34:31.526902',0,NULL);
CREATE TABLE datasets (
	id INTEGER NOT NULL,
	identity VARCHAR(64) NOT NULL,
	uri TEXT NOT NULL,
	revision TEXT,
	sha256 VARCHAR(64) NOT NULL,
	format VARCHAR(32) NOT NULL,
	layout VARCHAR(32) NOT NULL,
	mapping JSON NOT NULL,
	licence TEXT,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_datasets PRIMARY KEY (id),
	CONSTRAINT uq_datasets_identity UNIQUE (identity)
);
INSERT INTO "datasets" VALUES(1,'918aa9bf1a7b0393f0cd4ad4321cbda5e8856d47c5caf11e7815f1f6ea4e754d','/srv/ledgers/facts.json',NULL,'e404d5ba8b9f746e10bd83afda8703ab3f13bb170abc306a6c739f39846dab49','json','canonical','{}',NULL,'2026-11-25 10:34:30.568195');
CREATE TABLE edits (
	id INTEGER NOT NULL,
	turn_id INTEGER NOT NULL,
	position INTEGER NOT NULL,
	"row" BIGINT,
	prompt TEXT NOT NULL,
	target TEXT NOT NULL,
	subject TEXT,
	old_target TEXT,
	probes TEXT NOT NULL,
	prompt_key BIGINT NOT NULL,
	digest VARCHAR(64) NOT NULL,
	relation TEXT,
	subject_key BIGINT,
	fact_key BIGINT,
	CONSTRAINT pk_edits PRIMARY KEY (id),
	CONSTRAINT uq_edits_turn_id_position UNIQUE (turn_id, position),
	CONSTRAINT ck_edits_position CHECK (position >= 0),
	CONSTRAINT ck_edits_target CHECK (target <> ''),
	CONSTRAINT fk_edits_turn_id_turns FOREIGN KEY(turn_id) REFERENCES turns (id)
);
INSERT INTO "edits" VALUES(1,1,0,0,'The capital of France is','Rome','France','Tokyo','{"locality":[["He plays the guitar, she plays the","piano"]],"rephrasings":["Who was it? The capital of France is"]}',5440623538737920805,'3238441d510f25e68938db85ceaa99d831471c2d8f505415fa0b41993344fd9f',NULL,-6489036561091706559,NULL);
INSERT INTO "edits" VALUES(2,1,1,2,'The capital of Italy is','English','Italy','Tokyo','{"locality":[["He plays the guitar, she plays the","piano"]],"rephrasings":["Who was it? The capital of Italy is"]}',6418798676312928123,'31b8fb25753c512fae74a284731469c266bc014d3ac9342aa536d8c4f27dbf79',NULL,1382517611787041841,NULL);
INSERT INTO "edits" VALUES(3,2,0,3,'The capital of Finland is','London 12','Finland','Tokyo','{"locality":[["He plays the guitar, she plays the","piano"]],"rephrasings":["Who was it? The capital of Finland is"]}',4683611124539460557,'a408552407f778dfaafbdff44220523b67eab29360865618ad50cc3586669ca1',NULL,-6577100306476802558,NULL);
INSERT INTO "edits" VALUES(4,2,1,4,'The capital of Vienna is','a piano','Vienna','Tokyo','{"locality":[["He plays the guitar, she plays the","piano"]],"rephrasings":["Who was it? The capital of Vienna is"]}',362177177584112733,'36763dcaa8e333bb7727f03175f753b53e3879fbc72a66f2ec0ec62fba9a88d4',NULL,-1979504438770779750,NULL);
INSERT INTO "edits" VALUES(5,4,0,5,'The capital of London is','1984','London','Tokyo','{"locality":[["He plays the guitar, she plays the","piano"]],"rephrasings":["Who was it? The capital of London is"]}',-4019931548865683179,'27fdc13790a16cce4765256da1b9506c1d33bd27fedd0e2e489efd1ac9554c11',NULL,8516742808916946115,NULL);
INSERT INTO "edits" VALUES(6,4,1,6,'The official language of France is','Toyota Camry','France','Tokyo','{"locality":[["He plays the guitar, she plays the","piano"]],"rephrasings":["Who was it? The official language of France is"]}',-5034170908320945017,'3773202816e833900d0e5e0c14843578eae0412b0040f8a14b964dae0523f2ef',NULL,-6489036561091706559,NULL);
INSERT INTO "edits" VALUES(7,5,0,7,'The official language of Japan is','Rome','Japan','Tokyo','{"locality":[["He plays the guitar, she plays the","piano"]],"rephrasings":["Who was it? The official language of Japan is"]}',-6278541342369512569,'00cb68ba983554fd11036b2331fc4addb1a5996bad254f65e0e1bb6202a1213c',NULL,8051983121959614561,NULL);
INSERT INTO "edits" VALUES(8,5,1,8,'The official language of Italy is','the Danube','Italy','Tokyo','{"locality":[["He plays the guitar, she plays the","piano"]],"rephrasings":["Who was it? The official language of Italy is"]}',-3020568733307417225,'b566da3a36c83ebd1c43658ee9e6304be5b8feb32079d1eeadc14b287d824231',NULL,1382517611787041841,NULL);
INSERT INTO "edits" VALUES(9,7,0,9,'The official language of Finland is','English','Finland','Tokyo','{"locality":[["He plays the guitar, she plays the","piano"]],"rephrasings":["Who was it? The official language of Finland is"]}',437633073991945106,'41b8154aede0549a38095073d13c1f6bb18666d729a4be006c582414a37fcad6',NULL,-6577100306476802558,NULL);
INSERT INTO "edits" VALUES(10,8,0,10,'The official language of Vienna is','London 12','Vienna','Tokyo','{"locality":[["He plays the guitar, she plays the","piano"]],"rephrasings":["Who was it? The official language of Vienna is"]}',-7540524427503067353,'6fe810a5b39e9af1d04f614756ad2e0ea4344da85a72e67a84aee7545317f2fa',NULL,-1979504438770779750,NULL);
INSERT INTO "edits" VALUES(11,10,0,10,'The official language of Vienna is','London 12','Vienna','Tokyo','{"locality":[["He plays the guitar, she plays the","piano"]],"rephrasings":["Who was it? The official language of Vienna is"]}',-7540524427503067353,'6fe810a5b39e9af1d04f614756ad2e0ea4344da85a72e67a84aee7545317f2fa',NULL,-1979504438770779750,NULL);
CREATE TABLE evaluations (
	id INTEGER NOT NULL,
	turn_id INTEGER NOT NULL,
	scope VARCHAR(16) NOT NULL,
	scope_turn_id INTEGER,
	protocol JSON NOT NULL,
	seed BIGINT NOT NULL,
	n INTEGER NOT NULL,
	base JSON NOT NULL,
	state JSON NOT NULL,
	environment JSON NOT NULL,
	seconds DOUBLE NOT NULL,
	created_at DATETIME NOT NULL,
	hash VARCHAR(64) NOT NULL,
	CONSTRAINT pk_evaluations PRIMARY KEY (id),
	CONSTRAINT ck_evaluations_scope CHECK (scope IN ('turn', 'in_force', 'sample', 'text')),
	CONSTRAINT ck_evaluations_scope_turn CHECK ((scope = 'turn') = (scope_turn_id IS NOT NULL)),
	CONSTRAINT ck_evaluations_n CHECK (n >= 0),
	CONSTRAINT fk_evaluations_turn_id_turns FOREIGN KEY(turn_id) REFERENCES turns (id),
	CONSTRAINT fk_evaluations_scope_turn_id_turns FOREIGN KEY(scope_turn_id) REFERENCES turns (id),
	CONSTRAINT uq_evaluations_hash UNIQUE (hash)
);
INSERT INTO "evaluations" VALUES(1,1,'turn',1,'{"name": "teacher-forced", "version": 2}',0,2,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 1.0, "perplexity": 585.0472994820093, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null}','{"edit_success": 0.41666666666666663, "generalization": 0.0, "locality": 0.0, "stability": 0.3333333333333333, "exact_match": 0.0, "preference": 1.0, "perplexity": 35.19471971447695, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}',1.79612359970633406192e-02,'2026-11-25 10:34:30.568195','d8fbaa0a5b68523a88756b95a098de78dbcfca71a9e24aff1475e12dad06584d');
INSERT INTO "evaluations" VALUES(2,2,'turn',2,'{"name": "teacher-forced", "version": 2}',0,2,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 0.5, "perplexity": 890.4625239334547, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null}','{"edit_success": 0.5, "generalization": 0.0, "locality": 0.0, "stability": 0.3333333333333333, "exact_match": 0.0, "preference": 1.0, "perplexity": 48.781097109816464, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}',1.33094489974610041826e-02,'2026-11-25 10:34:30.647270','4b3a3e26adc480a4f35050eee5c5b5659e3b18d3881684a48786657a5bb88bd0');
INSERT INTO "evaluations" VALUES(3,2,'sample',NULL,'{"name": "teacher-forced", "version": 2, "sample": "retention", "then": 0.5}',0,1,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 1.0, "perplexity": 794.3196347044194, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null}','{"edit_success": 0.5, "generalization": 0.0, "locality": 0.0, "stability": 0.3333333333333333, "exact_match": 0.0, "preference": 1.0, "perplexity": 29.244577026718193, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}',1.20725100023264531046e-02,'2026-11-25 10:34:30.647270','fcea396088a6ec177e3be90966e3e82c6962ad91721a4613967953d0be96670f');
INSERT INTO "evaluations" VALUES(4,3,'in_force',NULL,'{"name": "teacher-forced", "version": 2}',0,2,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 0.5, "perplexity": 890.4625239334547, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null}','{"edit_success": 0.5, "generalization": 0.0, "locality": 0.0, "stability": 0.3333333333333333, "exact_match": 0.0, "preference": 1.0, "perplexity": 48.95694816416774, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}',7.53724799869814887642e-03,'2026-11-25 10:34:30.739169','79ba6c9b388cdd1f7ceb332c73671ac5ccfb6db006a9608b31d1818c8c7d9033');
CREATE TABLE keyframes (
	"key" VARCHAR(64) NOT NULL,
	kind VARCHAR(16) NOT NULL,
	digest VARCHAR(64) NOT NULL,
	bytes BIGINT NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_keyframes PRIMARY KEY ("key"),
	CONSTRAINT ck_keyframes_kind CHECK (kind IN ('weights', 'statistics')),
	CONSTRAINT ck_keyframes_bytes CHECK (bytes > 0)
);
INSERT INTO "keyframes" VALUES('d1d06fae093e03806312ad5efb112be270cb04c2bb0f66cf504cd90a408bcb37','statistics','e7ec8969eeabbde29631f6244be9daa467cc51142e5db10ee0d23abed99f10a9',1432,'2026-11-25 10:34:31.380550');
CREATE TABLE ledger_schema (version_num VARCHAR(32) NOT NULL, CONSTRAINT ledger_schema_pkc PRIMARY KEY (version_num));
INSERT INTO "ledger_schema" VALUES('0005');
CREATE TABLE outcomes (
	evaluation_id INTEGER NOT NULL,
	edit_id INTEGER NOT NULL,
	base JSON NOT NULL,
	state JSON NOT NULL,
	CONSTRAINT pk_outcomes PRIMARY KEY (evaluation_id, edit_id),
	CONSTRAINT fk_outcomes_evaluation_id_evaluations FOREIGN KEY(evaluation_id) REFERENCES evaluations (id),
	CONSTRAINT fk_outcomes_edit_id_edits FOREIGN KEY(edit_id) REFERENCES edits (id)
);
INSERT INTO "outcomes" VALUES(1,1,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 1.0, "perplexity": 794.5109321002112, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}','{"edit_success": 0.5, "generalization": 0.0, "locality": 0.0, "stability": 0.3333333333333333, "exact_match": 0.0, "preference": 1.0, "perplexity": 32.137724114734034, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}');
INSERT INTO "outcomes" VALUES(1,2,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 1.0, "perplexity": 375.58366686380725, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}','{"edit_success": 0.3333333333333333, "generalization": 0.0, "locality": 0.0, "stability": 0.3333333333333333, "exact_match": 0.0, "preference": 1.0, "perplexity": 38.25171531421987, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}');
INSERT INTO "outcomes" VALUES(2,3,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 0.0, "perplexity": 1119.8762240993476, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}','{"edit_success": 0.5, "generalization": 0.0, "locality": 0.0, "stability": 0.3333333333333333, "exact_match": 0.0, "preference": 1.0, "perplexity": 48.48588830471457, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}');
INSERT INTO "outcomes" VALUES(2,4,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 1.0, "perplexity": 661.0488237675618, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}','{"edit_success": 0.5, "generalization": 0.0, "locality": 0.0, "stability": 0.3333333333333333, "exact_match": 0.0, "preference": 1.0, "perplexity": 49.07630591491836, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}');
INSERT INTO "outcomes" VALUES(3,1,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 1.0, "perplexity": 794.3196347044194, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}','{"edit_success": 0.5, "generalization": 0.0, "locality": 0.0, "stability": 0.3333333333333333, "exact_match": 0.0, "preference": 1.0, "perplexity": 29.244577026718193, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}');
INSERT INTO "outcomes" VALUES(4,3,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 0.0, "perplexity": 1119.8762240993476, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}','{"edit_success": 0.5, "generalization": 0.0, "locality": 0.0, "stability": 0.3333333333333333, "exact_match": 0.0, "preference": 1.0, "perplexity": 45.89072698136047, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}');
INSERT INTO "outcomes" VALUES(4,4,'{"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0, "preference": 1.0, "perplexity": 661.0488237675618, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}','{"edit_success": 0.5, "generalization": 0.0, "locality": 0.0, "stability": 0.3333333333333333, "exact_match": 0.0, "preference": 1.0, "perplexity": 52.02316934697502, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}');
CREATE TABLE publications (
	id INTEGER NOT NULL,
	turn_id INTEGER NOT NULL,
	form VARCHAR(16) NOT NULL,
	repo TEXT NOT NULL,
	revision TEXT NOT NULL,
	"commit" VARCHAR(64) NOT NULL,
	tag TEXT,
	created_at DATETIME NOT NULL,
	hash VARCHAR(64) NOT NULL,
	CONSTRAINT pk_publications PRIMARY KEY (id),
	CONSTRAINT ck_publications_form CHECK (form IN ('model', 'patch', 'adapter')),
	CONSTRAINT fk_publications_turn_id_turns FOREIGN KEY(turn_id) REFERENCES turns (id),
	CONSTRAINT uq_publications_hash UNIQUE (hash)
);
INSERT INTO "publications" VALUES(1,6,'patch','me/patches','main','ec8b90c278e616356b916e13e36c66c2c93f0aea','turn-6','2026-11-25 10:34:31.311796','08aa32cd4400bce065dcbf1e8fce90ef289e7d6d78e04217c5f0f94ec0aaca57');
CREATE TABLE ref_moves (
	id INTEGER NOT NULL,
	ref VARCHAR(200) NOT NULL,
	from_turn_id INTEGER,
	to_turn_id INTEGER,
	action VARCHAR(32) NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_ref_moves PRIMARY KEY (id),
	CONSTRAINT fk_ref_moves_from_turn_id_turns FOREIGN KEY(from_turn_id) REFERENCES turns (id),
	CONSTRAINT fk_ref_moves_to_turn_id_turns FOREIGN KEY(to_turn_id) REFERENCES turns (id)
);
INSERT INTO "ref_moves" VALUES(1,'main',NULL,NULL,'init','2026-11-25 10:34:30.439520');
INSERT INTO "ref_moves" VALUES(2,'main',NULL,1,'edit','2026-11-25 10:34:30.568195');
INSERT INTO "ref_moves" VALUES(3,'main',1,2,'edit','2026-11-25 10:34:30.647270');
INSERT INTO "ref_moves" VALUES(4,'main',2,3,'rollback','2026-11-25 10:34:30.679514');
INSERT INTO "ref_moves" VALUES(5,'main',3,4,'edit','2026-11-25 10:34:30.876994');
INSERT INTO "ref_moves" VALUES(6,'main',4,5,'edit','2026-11-25 10:34:30.913293');
INSERT INTO "ref_moves" VALUES(7,'main',5,6,'merge','2026-11-25 10:34:31.147029');
INSERT INTO "ref_moves" VALUES(8,'other',NULL,2,'create','2026-11-25 10:34:31.333721');
INSERT INTO "ref_moves" VALUES(9,'other',2,7,'edit','2026-11-25 10:34:31.425681');
INSERT INTO "ref_moves" VALUES(10,'other',7,8,'edit','2026-11-25 10:34:31.466596');
INSERT INTO "ref_moves" VALUES(11,'reviewed',NULL,8,'tag','2026-11-25 10:34:31.482410');
INSERT INTO "ref_moves" VALUES(12,'other',8,9,'merge','2026-11-25 10:34:31.526902');
INSERT INTO "ref_moves" VALUES(13,'main',6,10,'edit','2026-11-25 10:34:31.583858');
CREATE TABLE refs (
	name VARCHAR(200) NOT NULL,
	kind VARCHAR(16) NOT NULL,
	turn_id INTEGER,
	CONSTRAINT pk_refs PRIMARY KEY (name),
	CONSTRAINT ck_refs_kind CHECK (kind IN ('branch', 'tag')),
	CONSTRAINT ck_refs_tag_has_turn CHECK (kind = 'branch' OR turn_id IS NOT NULL),
	CONSTRAINT fk_refs_turn_id_turns FOREIGN KEY(turn_id) REFERENCES turns (id)
);
INSERT INTO "refs" VALUES('main','branch',10);
INSERT INTO "refs" VALUES('other','branch',9);
INSERT INTO "refs" VALUES('reviewed','tag',8);
CREATE TABLE replacements (
	turn_id INTEGER NOT NULL,
	replaced_id INTEGER NOT NULL,
	CONSTRAINT pk_replacements PRIMARY KEY (turn_id, replaced_id),
	CONSTRAINT ck_replacements_earlier CHECK (replaced_id < turn_id),
	CONSTRAINT fk_replacements_turn_id_turns FOREIGN KEY(turn_id) REFERENCES turns (id),
	CONSTRAINT fk_replacements_replaced_id_turns FOREIGN KEY(replaced_id) REFERENCES turns (id)
);
INSERT INTO "replacements" VALUES(6,4);
INSERT INTO "replacements" VALUES(6,5);
INSERT INTO "replacements" VALUES(9,1);
INSERT INTO "replacements" VALUES(9,2);
INSERT INTO "replacements" VALUES(9,7);
INSERT INTO "replacements" VALUES(9,8);
CREATE TABLE settings (
	id INTEGER NOT NULL,
	method VARCHAR(32) NOT NULL,
	"values" JSON NOT NULL,
	evidence JSON NOT NULL,
	created_at DATETIME NOT NULL,
	hash VARCHAR(64) NOT NULL,
	CONSTRAINT pk_settings PRIMARY KEY (id),
	CONSTRAINT uq_settings_hash UNIQUE (hash)
);
INSERT INTO "settings" VALUES(1,'ultraedit','{"modules": ["model.layers.2.mlp.down_proj"], "step": "first-order", "share": 1.0, "limit": 0.5, "enough": 0.0, "passes": 3, "retention": 1.0, "locality": 0.0, "contrast": 0.3, "prompts": 0.1}','{"data": "/srv/ledgers/more.json", "sha256": "aea042f0fde27011400a0f7b80c3b0f7e618bef68d6bb0f438b2d42404c45198", "calibration_edits": 2, "held_out_edits": 2, "turns": 1, "turn_size": 2, "prefer": "balance", "found": false, "held_out": [{"name": "chosen", "values": {"modules": ["model.layers.2.mlp.down_proj"], "step": "first-order", "share": 1.0, "limit": 0.5, "enough": 0.0, "passes": 3, "retention": 1.0, "locality": 0.0, "contrast": 0.3, "prompts": 0.1}, "objective": 0.2638888888888889, "scores": {"edit_success": {"value": 0.125, "interval": [0.0, 0.25]}, "generalization": {"value": 0.0, "interval": [0.0, 0.0]}, "stability": {"value": 0.6666666666666666, "interval": [0.6666666666666666, 0.6666666666666666]}, "exact_match": {"value": 0.0, "interval": [0.0, 0.0]}}, "earlier_turns": null, "failure": null}, {"name": "default", "values": {"modules": ["model.layers.2.mlp.down_proj"], "step": "first-order", "share": 1.0, "limit": 0.5, "enough": 0.0, "passes": 3, "retention": 1.0, "locality": 0.0, "contrast": 0.3, "prompts": 0.1}, "objective": 0.2638888888888889, "scores": {"edit_success": {"value": 0.125, "interval": [0.0, 0.25]}, "generalization": {"value": 0.0, "interval": [0.0, 0.0]}, "stability": {"value": 0.6666666666666666, "interval": [0.6666666666666666, 0.6666666666666666]}, "exact_match": {"value": 0.0, "interval": [0.0, 0.0]}}, "earlier_turns": null, "failure": null}, {"name": "published", "values": {"modules": ["model.layers.2.mlp.down_proj"], "step": "published", "retention": 0.0, "locality": 0.0, "contrast": 0.0, "learning_rate": 1.7}, "objective": 0.4166666666666667, "scores": {"edit_success": {"value": 0.875, "interval": [0.75, 1.0]}, "generalization": {"value": 0.375, "interval": [0.25, 0.5]}, "stability": {"value": 0.0, "interval": [0.0, 0.0]}, "exact_match": {"value": 0.5, "interval": [0.0, 1.0]}}, "earlier_turns": null, "failure": null}], "trials": 4, "seconds": 0.3, "seed": 0, "study": "2268370be451c48b3c3c58e94d39c581ae09c49eeff2ab90226bfb07e7d1def4", "versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}}','2026-11-25 10:34:31.913408','90637cfc1621baecb14d73deb62cbb5a7d90028fc55375f1fb8d57335cdddcaf');
INSERT INTO "settings" VALUES(2,'ultraedit','{}','{"reason": "reset to the built-in defaults"}','2026-11-25 10:34:31.922295','0b8e02ef02cd6d9433359ed77d9f8b41b6c396c751beb1b3b10659da859e0dbe');
CREATE TABLE skipped_rows (
	turn_id INTEGER NOT NULL,
	"row" BIGINT NOT NULL,
	reason TEXT NOT NULL,
	CONSTRAINT pk_skipped_rows PRIMARY KEY (turn_id, "row"),
	CONSTRAINT fk_skipped_rows_turn_id_turns FOREIGN KEY(turn_id) REFERENCES turns (id)
);
INSERT INTO "skipped_rows" VALUES(1,1,'empty target');
CREATE TABLE trials (
	id INTEGER NOT NULL,
	study VARCHAR(64) NOT NULL,
	"key" VARCHAR(64) NOT NULL,
	"values" JSON NOT NULL,
	result JSON NOT NULL,
	failure TEXT,
	seconds DOUBLE NOT NULL,
	created_at DATETIME NOT NULL,
	hash VARCHAR(64) NOT NULL,
	CONSTRAINT pk_trials PRIMARY KEY (id),
	CONSTRAINT uq_trials_study_key UNIQUE (study, "key"),
	CONSTRAINT uq_trials_hash UNIQUE (hash)
);
INSERT INTO "trials" VALUES(1,'2268370be451c48b3c3c58e94d39c581ae09c49eeff2ab90226bfb07e7d1def4','2f4bb13c8937c58de91e54e8b38b3330c091b901bc5cbc56c6401129f03c7f48','{"modules": [], "values": {}, "factors": {}}','{"held_out": false, "turns": 1, "turn_size": 2, "elapsed": 0.094, "hyperparameters": {"modules": ["model.layers.2.mlp.down_proj"], "step": "first-order", "ridge": 1.0, "share": 1.0, "limit": 0.5, "enough": 0.0, "passes": 3, "retention": 1.0, "locality": 0.0, "contrast": 0.3, "prompts": 0.1, "contrasts": 3}, "scores": {"edit_success": 0.5, "generalization": 0.375, "locality": 0.0, "stability": 0.6666666666666666, "exact_match": 0.0}, "earlier": null, "outcomes": []}',NULL,3.62487670026894193142e-02,'2026-11-25 10:34:31.716064','b5dbad4514357c85e138a60e3ab21930188f99a8dd54e993663ac0e612a1426f');
INSERT INTO "trials" VALUES(2,'2268370be451c48b3c3c58e94d39c581ae09c49eeff2ab90226bfb07e7d1def4','00da89c51fdee44b3e8dffb16aec15d2d4c587ab056441c6a3a3b87860c9be69','{"modules": [], "values": {"step": "published"}, "factors": {}}','{"held_out": false, "turns": 1, "turn_size": 2, "elapsed": 0.115, "hyperparameters": {"modules": ["model.layers.2.mlp.down_proj"], "step": "published", "learning_rate": 1.7, "ridge": 1.0, "batch_size": 10, "tokens": "target", "variance": "published", "retention": 0.0, "locality": 0.0, "contrast": 0.0}, "scores": {"edit_success": 1.0, "generalization": 0.4375, "locality": 0.0, "stability": 0.0, "exact_match": 1.0}, "earlier": null, "outcomes": []}',NULL,1.55491389996313955634e-02,'2026-11-25 10:34:31.737191','d9a1de3539ba7749ccb3c71fec19024bc7a56d43b8535e2f076d9d7c75263320');
INSERT INTO "trials" VALUES(3,'2268370be451c48b3c3c58e94d39c581ae09c49eeff2ab90226bfb07e7d1def4','b3bbc9aa58a60c86ceaa4f1e19d19c549c93e64f0c32c935b51791883b19e0b5','{"modules": ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"], "values": {"share": 0.7, "enough": 0.3, "passes": 5, "retention": 0.3, "locality": 0.0}, "factors": {}}','{"held_out": false, "turns": 1, "turn_size": 2, "elapsed": 0.181, "hyperparameters": {"modules": ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"], "step": "first-order", "ridge": 1.0, "share": 0.7, "limit": 0.5, "enough": 0.3, "passes": 5, "retention": 0.3, "locality": 0.0, "contrast": 0.3, "prompts": 0.1, "contrasts": 3}, "scores": {"edit_success": 0.875, "generalization": 0.4375, "locality": 0.0, "stability": 0.0, "exact_match": 0.5}, "earlier": null, "outcomes": []}',NULL,6.26413289974152576178e-02,'2026-11-25 10:34:31.803185','e2aa043f40ac8d39ede536a7422d11050bf2b1ade0a217c50e2dd1b0c9678f09');
INSERT INTO "trials" VALUES(4,'2268370be451c48b3c3c58e94d39c581ae09c49eeff2ab90226bfb07e7d1def4','102e4d9a1e249d62b161581651580643fd2a8c9a75ab7ac298c5bfe89afd0d27','{"modules": ["model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"], "values": {"share": 1.6, "limit": 1.0, "enough": 0.3, "passes": 1, "retention": 3.0, "locality": 0.1}, "factors": {}}','{"held_out": false, "turns": 1, "turn_size": 2, "elapsed": 0.229, "hyperparameters": {"modules": ["model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"], "step": "first-order", "ridge": 1.0, "share": 1.6, "limit": 1.0, "enough": 0.3, "passes": 1, "retention": 3.0, "locality": 0.1, "contrast": 0.3, "prompts": 0.1, "contrasts": 3}, "scores": {"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 1.0, "exact_match": 0.0}, "earlier": null, "outcomes": []}',NULL,0.0447717589995591,'2026-11-25 10:34:31.850759','77a7dee8dde2cb8277e1cc3ca3e8af8a7a5c323d813072fa819b475cd8a274c9');
INSERT INTO "trials" VALUES(5,'2268370be451c48b3c3c58e94d39c581ae09c49eeff2ab90226bfb07e7d1def4','81b79475559ebcb603d40fac8a9cc5c946755cc71d6846987fe6be23089fb586','{"modules": [], "values": {}, "factors": {}}','{"held_out": true, "turns": 1, "turn_size": 2, "elapsed": 0.268, "hyperparameters": {"modules": ["model.layers.2.mlp.down_proj"], "step": "first-order", "ridge": 1.0, "share": 1.0, "limit": 0.5, "enough": 0.0, "passes": 3, "retention": 1.0, "locality": 0.0, "contrast": 0.3, "prompts": 0.1, "contrasts": 3}, "scores": {"edit_success": 0.125, "generalization": 0.0, "locality": 0.0, "stability": 0.6666666666666666, "exact_match": 0.0}, "earlier": null, "outcomes": [{"edit_success": 0.25, "generalization": 0.0, "locality": 0.0, "stability": 0.6666666666666666, "exact_match": 0.0, "preference": null, "perplexity": null, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}, {"edit_success": 0.0, "generalization": 0.0, "locality": 0.0, "stability": 0.6666666666666666, "exact_match": 0.0, "preference": null, "perplexity": null, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}]}',NULL,2.94702979990688618272e-02,'2026-11-25 10:34:31.889820','f69ddf6e036ff730dda741824d0b8a77442f9e0bb7c5b0dca5f91f0661ade1af');
INSERT INTO "trials" VALUES(6,'2268370be451c48b3c3c58e94d39c581ae09c49eeff2ab90226bfb07e7d1def4','fcf999d817dbcf5a14eb1df608d9d3d26cbc8c1104a27d4871b4394a93f5cc75','{"modules": [], "values": {"step": "published"}, "factors": {}}','{"held_out": true, "turns": 1, "turn_size": 2, "elapsed": 0.286, "hyperparameters": {"modules": ["model.layers.2.mlp.down_proj"], "step": "published", "learning_rate": 1.7, "ridge": 1.0, "batch_size": 10, "tokens": "target", "variance": "published", "retention": 0.0, "locality": 0.0, "contrast": 0.0}, "scores": {"edit_success": 0.875, "generalization": 0.375, "locality": 0.0, "stability": 0.0, "exact_match": 0.5}, "earlier": null, "outcomes": [{"edit_success": 0.75, "generalization": 0.25, "locality": 0.0, "stability": 0.0, "exact_match": 0.0, "preference": null, "perplexity": null, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}, {"edit_success": 1.0, "generalization": 0.5, "locality": 0.0, "stability": 0.0, "exact_match": 1.0, "preference": null, "perplexity": null, "out_of_distribution": null, "generated_match": null, "routed_edits": null, "routed_rephrasings": null, "routed_locality": null, "locality_tokens": 3.0}]}',NULL,1.53964019991690292954e-02,'2026-11-25 10:34:31.907782','fa866b0a8b2e5f988f9e0fa7e7c40f85ae30484e94a20edf1500ae34560d2ef2');
CREATE TABLE turns (
	id INTEGER NOT NULL,
	branch VARCHAR(200) NOT NULL,
	number INTEGER NOT NULL,
	parent_id INTEGER,
	kind VARCHAR(16) NOT NULL,
	method VARCHAR(32),
	hyperparameters JSON NOT NULL,
	seed BIGINT NOT NULL,
	message TEXT NOT NULL,
	author TEXT NOT NULL,
	dataset_id INTEGER,
	first_row BIGINT,
	last_row BIGINT,
	edits INTEGER NOT NULL,
	edits_digest VARCHAR(64) NOT NULL,
	skipped INTEGER NOT NULL,
	patch_digest VARCHAR(64),
	editor_state_digest VARCHAR(64),
	tensors JSON NOT NULL,
	environment JSON NOT NULL,
	seconds JSON NOT NULL,
	peak_memory BIGINT,
	notes JSON NOT NULL,
	created_at DATETIME NOT NULL,
	hash VARCHAR(64) NOT NULL,
	figures JSON NOT NULL,
	origin VARCHAR(36) NOT NULL,
	withheld JSON NOT NULL,
	copied_from VARCHAR(64),
	CONSTRAINT pk_turns PRIMARY KEY (id),
	CONSTRAINT uq_turns_origin_branch_number UNIQUE (origin, branch, number),
	CONSTRAINT ck_turns_number CHECK (number > 0),
	CONSTRAINT ck_turns_kind CHECK (kind IN ('edit', 'rollback', 'merge', 'import')),
	CONSTRAINT ck_turns_parent CHECK ((number = 1) = (parent_id IS NULL)),
	CONSTRAINT ck_turns_edit_has_patch CHECK (kind <> 'edit' OR (patch_digest IS NOT NULL AND method IS NOT NULL AND edits > 0)),
	CONSTRAINT ck_turns_has_patch CHECK (kind NOT IN ('merge', 'import') OR (patch_digest IS NOT NULL AND method IS NOT NULL)),
	CONSTRAINT ck_turns_counts CHECK (edits >= 0 AND skipped >= 0),
	CONSTRAINT fk_turns_parent_id_turns FOREIGN KEY(parent_id) REFERENCES turns (id),
	CONSTRAINT fk_turns_dataset_id_datasets FOREIGN KEY(dataset_id) REFERENCES datasets (id),
	CONSTRAINT fk_turns_patch_digest_blobs FOREIGN KEY(patch_digest) REFERENCES blobs (digest),
	CONSTRAINT fk_turns_editor_state_digest_blobs FOREIGN KEY(editor_state_digest) REFERENCES blobs (digest),
	CONSTRAINT uq_turns_hash UNIQUE (hash)
);
INSERT INTO "turns" VALUES(1,'main',1,NULL,'edit','ultraedit','{"modules": ["model.layers.1.mlp.down_proj"], "step": "first-order", "ridge": 1.0, "share": 1.0, "limit": 0.5, "enough": 0.0, "passes": 3, "retention": 1.0, "locality": 0.0, "contrast": 0.3, "prompts": 0.1, "contrasts": 3}',0,'first ☃','someone',1,0,2,2,'4b45b93c20f34646ff7019055371e01ab564391afc35ec2664c9275662d24c7b',1,'60080d96608519e144719a380e5e5c17a6e8ee9467f43a9ccafb1c38fe9b8246','8832cec6f62788631f3e8a64d72d6a16bf123b4faba0990298d4a4e6c616af0f','{"model.layers.1.mlp.down_proj.weight": "96b4759211f9604b6a3d27e166408b9b5a7361e5604ae08ba71af24c119ad717"}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}','{"capture": 0.008828496000205632, "solve": 0.02476856800058158, "store": 0.002590921998489648, "apply": 0.002187211997807026, "evaluate": 0.01796123599706334, "total": 0.05653106300087529}',502939648,'[]','2026-11-25 10:34:30.568195','0e6cea5f9bd0fe629dd27381c5084c4c4bfd31eebad11457fe4b1a76d479a6ce','{"loss_before": 6.22871208190918, "loss_after": 3.574317216873169, "tokens": 5.0}','d2a9565c-320c-40c9-85fd-669330dc9259','{}',NULL);
INSERT INTO "turns" VALUES(2,'main',2,1,'edit','ultraedit','{"modules": ["model.layers.1.mlp.down_proj"], "step": "first-order", "ridge": 1.0, "share": 1.0, "limit": 0.5, "enough": 0.0, "passes": 3, "retention": 1.0, "locality": 0.0, "contrast": 0.3, "prompts": 0.1, "contrasts": 3}',0,'first ☃','someone',1,3,4,2,'3435effebebcda6ec13ec07afc6176af249de5e24db71a240dcfb7af2c5fb0cf',0,'174fd224b103633d435e047f5e48f831072593226ed9e44960b9047b7f92c3ec','893f8fcfc041d1f17552d4ca8b9b573b67f0abeb76564db026c4a76da9342368','{"model.layers.1.mlp.down_proj.weight": "f7eb242c5844f3c0fd5edd67644a1afd309c3841df2af4ee029e990a5e637a5a"}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}','{"capture": 0.003671819002192933, "solve": 0.021847643998626154, "store": 0.0021309080002538394, "apply": 0.0014266809994296636, "evaluate": 0.013309448997461004, "retention": 0.012072510002326453, "total": 0.06126521300029708}',517750784,'[]','2026-11-25 10:34:30.647270','ca0ec5df0930cb67f42221fe1c8c8f198b65452255aee93da555d92794b6b0c5','{"loss_before": 6.7755560874938965, "loss_after": 3.8868680000305176, "tokens": 8.0}','d2a9565c-320c-40c9-85fd-669330dc9259','{}',NULL);
INSERT INTO "turns" VALUES(3,'main',3,2,'rollback',NULL,'{}',0,'wrong','someone',NULL,NULL,NULL,0,'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',0,NULL,NULL,'{"model.layers.1.mlp.down_proj.weight": "9354beca5be996f2e9b9bd4ad37cc7c94bc09fa7ee8b34a77dd34fdb886e2372"}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu"}','{"rebuild": 0.01598724100040272, "total": 0.016006369001843268}',NULL,'["editor state: the next edits go on from that of turn 2"]','2026-11-25 10:34:30.679514','438f80af937c84c68398560b8d19c1879484401fa9211a53cb9831ebdb257164','{}','d2a9565c-320c-40c9-85fd-669330dc9259','{}',NULL);
INSERT INTO "turns" VALUES(4,'main',4,3,'edit','wise','{"modules": ["model.layers.1.mlp.down_proj"], "learning_rate": 0.0886, "alpha": 0.329, "beta": 1.27, "gamma": 0.633, "activation_weight": 0.05, "iterations": 3, "batch": 100, "mask_ratio": 0.2, "threshold": 0.5, "form": "paper", "contexts": ["I q tho. "], "out_of_scope": "rows", "pool": null}',0,'','someone',1,5,6,2,'d7afaa10716d3fc063ba95e2149abede7478c4de5bba9bfc1ebf96b6c6e8b4ed',0,'e8156522cb682a3a3666c2e0b7e16ba55da7f34e72c5827330857c38b9da4613','d534c0ed8714862c4b504d7b53a573bd7a62707b5c0f84c505e75541a753e6ce','{"model.layers.1.mlp.down_proj.weight": "9354beca5be996f2e9b9bd4ad37cc7c94bc09fa7ee8b34a77dd34fdb886e2372"}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}','{"train": 0.053612252999300836, "threshold": 0.0019533049999154173, "store": 0.0024900930002331734, "apply": 0.0018264649988850579, "evaluate": 0.0, "total": 0.059998919001373}',540459008,'["an unrelated prompt activates the memory as strongly as an edit (2.7 against 2.43): some prompts will take the wrong way. Raise beta and gamma, or add locality prompts"]','2026-11-25 10:34:30.876994','6273b63ef035e31c5413e4cb62913c64a84ffd69762ea486d87d5071161d55a9','{"losses": [3.927997, 5.103155], "activation_loss": 2.4351, "iterations": 3, "threshold": 2.429321167230606}','d2a9565c-320c-40c9-85fd-669330dc9259','{}',NULL);
INSERT INTO "turns" VALUES(5,'main',5,4,'edit','wise','{"modules": ["model.layers.1.mlp.down_proj"], "learning_rate": 0.0886, "alpha": 0.329, "beta": 1.27, "gamma": 0.633, "activation_weight": 0.05, "iterations": 3, "batch": 100, "mask_ratio": 0.2, "threshold": 0.5, "form": "paper", "contexts": ["I q tho. "], "out_of_scope": "rows", "pool": null}',0,'','someone',1,7,8,2,'6fded4a9f5c682685ab7c75782e450126d93898775340d99b3d013a78c2562b6',0,'90f7efbc98b6c3af492fdb3ca75fcfd40338eabf2defd35578bec0613bbcebd4','d534c0ed8714862c4b504d7b53a573bd7a62707b5c0f84c505e75541a753e6ce','{"model.layers.1.mlp.down_proj.weight": "9354beca5be996f2e9b9bd4ad37cc7c94bc09fa7ee8b34a77dd34fdb886e2372"}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}','{"train": 0.023338241000601556, "threshold": 0.0014503769998555072, "store": 0.0013289050002640579, "apply": 0.0011441209971962962, "evaluate": 0.0, "total": 0.027329404001648072}',546095104,'["an unrelated prompt activates the memory as strongly as an edit (2.49 against 2.07): some prompts will take the wrong way. Raise beta and gamma, or add locality prompts"]','2026-11-25 10:34:30.913293','3b0771fbc089a714b45c1547612507039d601011e4bdd3f285cd657bb3e9aa03','{"losses": [4.88416, 5.088495], "activation_loss": 2.111671, "iterations": 3, "threshold": 2.064015680551529}','d2a9565c-320c-40c9-85fd-669330dc9259','{}',NULL);
INSERT INTO "turns" VALUES(6,'main',6,5,'merge','ties','{"method": "ties", "density": 0.53, "weights": null, "seed": 0, "merges": [4, 5], "threshold": 0.5}',0,'merge the shards of turns 4 to 5','someone',NULL,NULL,NULL,0,'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',0,'4a3fd9cbb80319c1bd83f8a3f387190f5f348c3922978cffb4e13ebee701e26f',NULL,'{"model.layers.1.mlp.down_proj.weight": "9354beca5be996f2e9b9bd4ad37cc7c94bc09fa7ee8b34a77dd34fdb886e2372"}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}','{"total": 0.21785118700063322}',560881664,'["an unrelated prompt activates the merged memory as strongly as an edit (3.34 against 2.93): some prompts will take the wrong way"]','2026-11-25 10:34:31.147029','85876204fcd07546e6c4b2199c3235099374e3b38f4f64bbd429dcfa0d127ad4','{}','d2a9565c-320c-40c9-85fd-669330dc9259','{}',NULL);
INSERT INTO "turns" VALUES(7,'other',3,2,'edit','ultraedit','{"modules": ["model.layers.1.mlp.down_proj"], "step": "first-order", "ridge": 1.0, "share": 1.0, "limit": 0.5, "enough": 0.0, "passes": 3, "retention": 1.0, "locality": 0.0, "contrast": 0.3, "prompts": 0.1, "contrasts": 3}',0,'','someone',1,9,9,1,'f65d498f0084b2c92f4232b34db29397d52800d8d350e6361efe711bf24f15ff',0,'ff5537479c942b7b7fbc4a1cbe84bd51b7452d9686fc86df3dc7d5959aaa36a9','1171fbd9063bd5ed3ee2bd9309ffe1ea9bc44db1654b5e40d1b878237e618e21','{"model.layers.1.mlp.down_proj.weight": "a3e68b750a62a5e85aa783595a64ed4e3a835c4849274ac60fc13bb3a0f35475"}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}','{"capture": 0.005536081000172999, "solve": 0.018661417001567315, "store": 0.0025402270002814475, "apply": 0.0011990929997409694, "evaluate": 0.0, "total": 0.028134953001426766}',572334080,'[]','2026-11-25 10:34:31.425681','edfe7e87629484c8970b73caccdd25ccae094c97164da8279d98844ec5ebf9d6','{"loss_before": 4.834388256072998, "loss_after": 1.9719971418380737, "tokens": 3.0}','d2a9565c-320c-40c9-85fd-669330dc9259','{}',NULL);
INSERT INTO "turns" VALUES(8,'other',4,7,'edit','ultraedit','{"modules": ["model.layers.1.mlp.down_proj"], "step": "first-order", "ridge": 1.0, "share": 1.0, "limit": 0.5, "enough": 0.0, "passes": 3, "retention": 1.0, "locality": 0.0, "contrast": 0.3, "prompts": 0.1, "contrasts": 3}',0,'','someone',1,10,10,1,'dbba5354913274f2b4ba6ab7e9fc8684920e48e508449086bff589e1846dc1b3',0,'0a7f1b010b4e113f99e4c94ea2cf9b515651a9183098b27866500cebe02a0a10','28e5c6a5e1e1022b8b2247b550c7b000b61804a475e1a9026c8705cea22aaaf1','{"model.layers.1.mlp.down_proj.weight": "c99f2106f3198a68458c76b86e927b19c3948b5b4b59c0bfb7f9b95cfa9d6360"}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu", "device_name": "x86_64", "dtype": "bfloat16", "threads": 1, "platform": "Linux"}','{"capture": 0.0028976590001548175, "solve": 0.021758230999694206, "store": 0.0028055119983037002, "apply": 0.0017777829998522066, "evaluate": 0.0, "total": 0.029365672999119852}',577839104,'[]','2026-11-25 10:34:31.466596','d680b89dead02692db915c11aa0147d94d7a06ae0a6f128748eb9662efc28d20','{"loss_before": 5.351128101348877, "loss_after": 2.4456307888031006, "tokens": 4.0}','d2a9565c-320c-40c9-85fd-669330dc9259','{}',NULL);
INSERT INTO "turns" VALUES(9,'other',5,8,'merge','squash','{"first": 1, "last": 4, "rank": null, "max_error": null}',0,'squash turns 1 to 4','someone',NULL,NULL,NULL,0,'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',0,'917f4b65e953e287409a4ada09a909f79788546550ba2d7f3ddc314dd67ace44',NULL,'{"model.layers.1.mlp.down_proj.weight": "c99f2106f3198a68458c76b86e927b19c3948b5b4b59c0bfb7f9b95cfa9d6360"}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu"}','{"total": 0.02415210099934484}',578097152,'[]','2026-11-25 10:34:31.526902','a1d9a37868e3ea7f478edaaf96447d63fdb190341a9ed833911ba6069292ddcc','{"error": 0.0, "errors": [0.0]}','d2a9565c-320c-40c9-85fd-669330dc9259','{}',NULL);
INSERT INTO "turns" VALUES(10,'main',7,6,'edit','ultraedit','{"modules": ["model.layers.1.mlp.down_proj"], "step": "first-order", "ridge": 1.0, "share": 1.0, "limit": 0.5, "enough": 0.0, "passes": 3, "retention": 1.0, "locality": 0.0, "contrast": 0.3, "prompts": 0.1, "contrasts": 3}',0,'copied from turn 4 of other (d680b89dead0)','someone',1,10,10,1,'dbba5354913274f2b4ba6ab7e9fc8684920e48e508449086bff589e1846dc1b3',0,'0a7f1b010b4e113f99e4c94ea2cf9b515651a9183098b27866500cebe02a0a10','28e5c6a5e1e1022b8b2247b550c7b000b61804a475e1a9026c8705cea22aaaf1','{"model.layers.1.mlp.down_proj.weight": "022515ea28138b4c619601da03966e48c44fb12fec14aa9a82bf252990cb4f15"}','{"versions": {"python": "3.11.7", "edit-ledger": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "safetensors": "0.8.0", "tokenizers": "0.23.3", "sqlalchemy": "2.1.9"}, "device": "cpu"}','{"total": 0.014389854997716611}',NULL,'["copied from turn 4 of other (d680b89dead0)"]','2026-11-25 10:34:31.583858','3ff18c1846ea768646d67f1d19196cbec6f28b25a111dc2c0b7328988eb97b1d','{"loss_before": 5.351128101348877, "loss_after": 2.4456307888031006, "tokens": 4.0}','d2a9565c-320c-40c9-85fd-669330dc9259','{}','d680b89dead02692db915c11aa0147d94d7a06ae0a6f128748eb9662efc28d20');
CREATE TABLE undoes (
	turn_id INTEGER NOT NULL,
	undone_id INTEGER NOT NULL,
	CONSTRAINT pk_undoes PRIMARY KEY (turn_id, undone_id),
	CONSTRAINT ck_undoes_earlier CHECK (undone_id < turn_id),
	CONSTRAINT fk_undoes_turn_id_turns FOREIGN KEY(turn_id) REFERENCES turns (id),
	CONSTRAINT fk_undoes_undone_id_turns FOREIGN KEY(undone_id) REFERENCES turns (id)
);
INSERT INTO "undoes" VALUES(3,1);
CREATE INDEX ix_datasets_sha256 ON datasets (sha256);
CREATE INDEX ix_blobs_pruned_at ON blobs (pruned_at);
CREATE INDEX ix_keyframes_digest ON keyframes (digest);
CREATE INDEX ix_settings_method ON settings (method);
CREATE INDEX ix_turns_copied_from ON turns (copied_from);
CREATE INDEX ix_turns_parent_id ON turns (parent_id);
CREATE INDEX ix_turns_patch_digest ON turns (patch_digest);
CREATE INDEX ix_turns_editor_state_digest ON turns (editor_state_digest);
CREATE INDEX ix_turns_dataset_id ON turns (dataset_id);
CREATE INDEX ix_edits_prompt_key ON edits (prompt_key);
CREATE INDEX ix_edits_subject_key ON edits (subject_key);
CREATE INDEX ix_edits_fact_key ON edits (fact_key);
CREATE INDEX ix_ref_moves_ref ON ref_moves (ref);
CREATE INDEX ix_evaluations_turn_id ON evaluations (turn_id);
CREATE INDEX ix_publications_turn_id ON publications (turn_id);
CREATE VIRTUAL TABLE edits_text USING fts5 (prompt, target, subject, content='edits', content_rowid='id', columnsize=0, tokenize='unicode61 remove_diacritics 0');
INSERT INTO edits_text (edits_text) VALUES ('rebuild');
COMMIT;
